// The one owner of scrolling. It follows growth only while the reader is at the end; a new question goes to the top and
// the answer grows under it until the page is full; then the reader decides.

const NEAR = 48; // px
const jump = document.querySelector("[data-jump]");
const bar = document.querySelector(".chat-bar");
const dock = document.querySelector(".dock");
const page = document.scrollingElement;

// What has the focus must not be behind the dock.
if (dock) new ResizeObserver(([{ target }]) => page.style.setProperty("--dock", `${target.offsetHeight}px`)).observe(dock);

let follows = dock !== null && isAtEnd(); // what is only read is not followed
let anchor = null; // the question that must stay in sight

function end() {
  return page.scrollHeight - innerHeight;
}

function isAtEnd() {
  return end() - scrollY <= NEAR;
}

/** Make a change that may make the page taller, and keep the reader where they want to be. */
export function growing(change) {
  const followed = follows;
  change();
  if (followed) {
    follow();
  }
  showJump();
}

function follow() {
  let target = end();
  if (anchor?.isConnected) {
    const { top, height } = anchor.querySelector(".question").getBoundingClientRect();
    const hidden = Math.max(0, height - innerHeight / 3); // of a long question only the end stays in sight
    target = Math.min(target, top + hidden + scrollY - bar.offsetHeight - 8);
  }
  if (target > scrollY) scrollTo({ top: target, behavior: "instant" });
}

/** Put a question that was just asked at the top, and follow its answer. */
export function anchorTo(article) {
  anchor = article;
  follows = true;
  follow();
  showJump();
}

/** Put an element where another one was in the window. */
export function keepAt(element, top) {
  follows = false;
  scrollBy({ top: element.getBoundingClientRect().top - top, behavior: "instant" });
  showJump();
}

/** Whether the reader wants to see what comes at the end. */
export function isFollowing() {
  return follows;
}

/** Go on with another element in the place of the anchored one. */
export function moveAnchor(from, to) {
  if (anchor === from) anchor = to;
}

function showJump() {
  if (jump) jump.hidden = isAtEnd();
}

// Only the reader's own hands let go: growth and our own scrolling raise scroll events too.
for (const name of ["wheel", "touchmove", "keydown", "pointerdown"]) {
  addEventListener(
    name,
    (event) => {
      if (name === "keydown" && !["PageUp", "PageDown", "Home", "End", "ArrowUp", "ArrowDown", " "].includes(event.key)) return;
      if (name === "keydown" && event.target.closest?.("textarea, select, input")) return;
      if (name === "pointerdown" && event.target !== document.documentElement) return; // the scroll bar
      requestAnimationFrame(() => {
        follows = dock !== null && isAtEnd();
        if (follows) anchor = null;
        showJump();
      });
    },
    { passive: true },
  );
}
addEventListener(
  "scroll",
  () => {
    if (dock && isAtEnd()) follows = true;
    showJump();
  },
  { passive: true },
);

jump?.addEventListener("click", () => {
  anchor = null;
  follows = true;
  scrollTo({ top: end(), behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth" });
  document.querySelector("[data-text]").focus({ preventScroll: true });
});

/** Show the end of the conversation, where it goes on. */
export function startAtEnd() {
  if (location.hash) return;
  scrollTo({ top: end(), behavior: "instant" });
  follows = true;
  showJump();
}
