/* Shows the API documents with Swagger UI, which is loaded before this, in the theme of the page. */

const place = document.querySelector("[data-api-docs]");
const root = document.documentElement;
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function paint() {
  const { theme } = root.dataset;
  root.classList.toggle("dark-mode", theme === "dark" || (theme !== "light" && systemIsDark.matches));
}

/* A page's session needs Django's token for anything that changes something. */
function addToken(request) {
  if (new URL(request.url, location.href).origin === location.origin) {
    request.headers["X-CSRFToken"] = place.dataset.csrf;
  }
  return request;
}

/* The page has a title of its own. */
function withoutInfo() {
  return { wrapComponents: { info: () => () => null } };
}

/* The page has a main part already, in which this is. */
function nameNoMain() {
  place.querySelector("main")?.setAttribute("role", "presentation");
}

paint();
systemIsDark.addEventListener("change", paint);
new MutationObserver(paint).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
window.SwaggerUIBundle({
  domNode: place,
  url: place.dataset.apiDocs,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  plugins: [withoutInfo],
  requestInterceptor: addToken,
  onComplete: nameNoMain,
});
