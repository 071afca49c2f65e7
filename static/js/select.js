// Choosing among the lines of a list: all that are shown, and with Shift those in between. The form works without it.

const form = document.querySelector("[data-select]");
const all = form.querySelector("[data-select-all]");
const boxes = [...document.querySelectorAll("input[form=select]")];

let last = null; // the box that was changed last

function update() {
  const chosen = boxes.filter((box) => box.checked).length;
  for (const button of form.querySelectorAll("[data-needs-some]")) button.disabled = chosen === 0;
  if (!all) return;
  const box = all.querySelector("input");
  box.checked = chosen > 0 && chosen === boxes.length;
  box.indeterminate = chosen > 0 && chosen < boxes.length;
}

if (all) {
  all.hidden = false;
  all.addEventListener("change", ({ target }) => {
    for (const box of boxes) box.checked = target.checked;
    update();
  });
}

for (const box of boxes) {
  box.addEventListener("click", (event) => {
    if (event.shiftKey && last) {
      const [from, to] = [boxes.indexOf(last), boxes.indexOf(box)].sort((a, b) => a - b);
      for (const between of boxes.slice(from, to + 1)) between.checked = box.checked;
    }
    last = box;
    update();
  });
}
addEventListener("pageshow", update); // the browser may have kept what was chosen
update();
