"""A person's first day, and the next."""

import re

from playwright.async_api import Browser, expect

from tests.e2e.browsing import Tab

CODE = "Here it is:\n\n```python\ndef double(x):\n    return 2 * x\n```\n"


async def test_sign_up_ask_stop_reload_a_second_tab_and_tomorrow(visitor: Tab, browser: Browser) -> None:
    page = visitor.page
    await page.goto("/")
    await expect(page.locator("html")).to_have_attribute("lang", "en")
    await page.get_by_role("button", name="Español").click()
    await expect(page.locator("html")).to_have_attribute("lang", "es")
    await page.get_by_role("button", name="Oscuro").click()
    await page.get_by_role("link", name=re.compile("Crear cuenta|Regístrate|Crear mi cuenta|Registrarse")).first.click()

    await page.get_by_label(re.compile("Correo")).fill("dora@example.com")
    await page.get_by_label("Contraseña").fill("una clave larga")
    await page.get_by_role("checkbox").check()
    await page.locator("form").filter(has=page.get_by_role("checkbox")).locator(".button-primary").click()
    await expect(visitor.question).to_be_visible()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await expect(page.locator("[data-allowance-used]")).to_have_text("0 de 500 créditos usados")
    # The month begins at midnight UTC, which is the evening before where this browser is.
    await expect(page.locator(".allowance-reset")).to_contain_text(
        re.compile(r"(28|29|30|31) de \w+ de \d{4} a las 19:00")
    )

    await visitor.ask(CODE, "fake-900t-5ms-echo8")
    turn = await visitor.finished()
    await expect(turn.locator("pre .k").first).to_have_text("def")
    address = page.url

    await visitor.ask("Sigue y sigue.", "fake-3000t-50ms")
    await visitor.wait_for_text(20)
    await page.reload()
    await visitor.wait_for_text(20)
    second = await visitor.another()
    await second.page.goto(address)
    await second.wait_for_text(20)
    await page.get_by_role("button", name="Detener").click()
    await visitor.finished("stopped")
    await second.finished("stopped")
    assert await second.shown_answer() == await visitor.shown_answer()

    kept = await visitor.context.storage_state()
    async with Tab.open(browser, int(visitor.base.rsplit(":")[-1]), storage_state=kept) as tomorrow:
        await tomorrow.page.goto("/")
        await expect(tomorrow.page.locator("html")).to_have_attribute("data-theme", "dark")
        await tomorrow.page.locator("[data-conversation] a").first.click()
        await expect(tomorrow.turns).to_have_count(2)
        assert await tomorrow.shown_answer() == await visitor.shown_answer()
        await tomorrow.page.locator(".account-button").click()
        await tomorrow.page.get_by_role("button", name="Cerrar sesión").click()
        await expect(tomorrow.page.get_by_role("link", name="Iniciar sesión").first).to_be_visible()

    await page.goto("/accounts/login/")
    await page.get_by_label(re.compile("Correo")).fill("DORA@example.com")
    await page.get_by_label("Contraseña").fill("una clave larga")
    await page.get_by_role("main").get_by_role("button", name="Iniciar sesión").click()
    await expect(visitor.question).to_be_visible()
