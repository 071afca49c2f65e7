// Draws a diagram for the page around this frame. Here is nothing but the text of the diagram.

(() => {
  const KINDS = new Set([ // others take a browser's time for one large number
    "flowchart", "flowchart-v2", "sequence", "class", "classDiagram", "state", "stateDiagram", "er", "gantt", "pie",
    "gitGraph", "journey", "timeline", "quadrantChart", "xychart",
  ]);
  const PADDING = 12; // px, as in diagram-frame.css
  const SECURE = ["secure", "securityLevel", "startOnLoad", "maxEdges", "themeCSS", "suppressErrorRendering"];

  let loading = null; // the library, which the page has

  addEventListener("message", async ({ source, origin, data, ports: [port] }) => {
    if (source !== parent || origin !== location.origin || !port) return;
    try {
      port.postMessage(await draw(data));
    } catch {
      port.postMessage(null); // the source says what is meant
    }
  });

  addEventListener("click", (event) => event.preventDefault()); // a link, or a form, would only put an error here

  function load(library) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = URL.createObjectURL(library);
      script.onload = resolve;
      script.onerror = reject;
      document.head.append(script);
    });
  }

  async function draw({ library, text, isDark }) {
    await (loading ??= load(library));
    // Who chose colours for boxes chose them on white.
    const theme = isDark && !/\bfill\s*:/.test(text) ? "dark" : "default";
    document.documentElement.dataset.theme = theme;
    globalThis.mermaid.initialize({
      startOnLoad: false,
      securityLevel: "strict",
      secure: SECURE,
      suppressErrorRendering: true,
      maxEdges: 100, // for many more the page may stand still
      fontFamily: "ui-sans-serif, system-ui, sans-serif",
      theme,
    });
    if (!KINDS.has(globalThis.mermaid.detectType(text))) return null;
    const { svg } = await globalThis.mermaid.render("diagram", text);
    document.body.innerHTML = svg;
    const drawing = document.body.firstElementChild;
    const { width, height } = drawing.viewBox.baseVal ?? {};
    if (!width || !height) return null;
    drawing.style.maxWidth = "none";
    drawing.setAttribute("width", width);
    drawing.setAttribute("height", height);
    return { width: width + 2 * PADDING, height: height + 2 * PADDING };
  }
})();
