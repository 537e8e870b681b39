// Keeps a plotly chart's node over all refreshes, and feeds it through Plotly.react.

const DOUBLE_CLICK_MS = 400; // plotly waits 300 for the second click

let loading = null;
const sets = new Map(); // node -> what was last told of it
let isHovering = false;

function plotly(address) {
  loading ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = new URL(address, document.baseURI).href;
    script.onload = () => done(window.Plotly);
    script.onerror = () => { loading = null; failed(new Error("plotly.js did not load")); };
    document.head.append(script);
  });
  return loading;
}

// ---- one figure ----

export async function draw(component, told) {
  const { parentElement } = component;
  let node = parentElement.querySelector(".moescope-plot");
  if (!sets.has(node)) {
    node?.remove();
    node = made(parentElement, told);
  }
  const held = sets.get(node);
  held.told = told;
  held.send = component.setStateValue;
  node.style.height = `${told.height}px`;
  node.setAttribute("aria-label", told.says);
  await refreshed(node);
}

function made(parent, told) {
  const node = document.createElement("div");
  node.className = "moescope-plot";
  node.style.width = "100%";
  node.setAttribute("role", "img");
  parent.append(node);
  forgetGone();
  const held = { isSeen: false, isHeld: false, drawn: null, told, gone: new AbortController() };
  sets.set(node, held);
  // a chart out of sight costs nothing until it is scrolled to
  held.seeing = new IntersectionObserver((entries) => {
    held.isSeen = entries[entries.length - 1].isIntersecting;
    if (held.isSeen) refreshed(node);
  }, { rootMargin: "200px" });
  held.seeing.observe(node);
  held.sizing = new ResizeObserver(() => {
    if (node._fullLayout && node.offsetWidth) window.Plotly.Plots.resize(node);
  });
  held.sizing.observe(node);
  // a refresh in the middle of a drag, or between the clicks of a double click, would end it
  node.addEventListener("pointerdown", () => {
    clearTimeout(held.release);
    held.isHeld = true;
  });
  const release = () => {
    if (!held.isHeld) return;
    held.release = setTimeout(() => {
      held.isHeld = false;
      refreshed(node);
    }, DOUBLE_CLICK_MS);
  };
  // a finger that began to scroll the page is cancelled, not lifted
  for (const name of ["pointerup", "pointercancel"]) {
    window.addEventListener(name, release, { signal: held.gone.signal });
  }
  return node;
}

// the charts of pages that were left, which would be kept with all their points
function forgetGone() {
  for (const [node, held] of sets) {
    if (node.isConnected) continue;
    sets.delete(node);
    held.gone.abort();
    held.seeing.disconnect();
    held.sizing.disconnect();
    if (node._fullLayout) window.Plotly.purge(node);
  }
}

async function refreshed(node) {
  const held = sets.get(node);
  if (!held?.isSeen || held.isHeld || !node.isConnected) return;
  const { told } = held;
  const look = looks(node);
  const version = `${told.version} ${told.view} ${look.text} ${look.ground}`;
  if (held.drawn === version) return;
  const isFirst = held.drawn === null;
  held.drawn = version;
  const Plotly = await plotly(told.plotly);
  const { data, layout } = structuredClone(told.figure);
  dress(layout, look);
  layout.uirevision = told.view || "same";
  if (window.matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // a drag scrolls
  await Plotly.react(node, data, layout, {
    displaylogo: false,
    responsive: false,
    displayModeBar: "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    modeBarButtonsToAdd: [{
      name: "csv",
      title: "Download what is drawn as CSV",
      icon: Plotly.Icons.disk,
      click: () => saveCsv(node, told.says),
    }],
    toImageButtonOptions: { filename: fileName(told.says), scale: 2 },
  });
  if (isFirst) listen(node, Plotly);
}

function listen(node, Plotly) {
  const held = sets.get(node);
  let settles = 0;
  let wasReset = 0;
  node.on("plotly_relayout", (change) => {
    if (!held.told.steers || Date.now() - wasReset < 500) return;
    const isAll = change["xaxis.autorange"] === true;
    const range = change["xaxis.range"] ?? [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (!isAll && range[0] === undefined) return;
    clearTimeout(settles);
    settles = setTimeout(() => {
      const { type } = node._fullLayout.xaxis;
      const plain = (x) => (type === "log" ? 10 ** x : type === "date" ? Date.parse(`${x}Z`) : x);
      // `at` tells the same range asked for twice from one that is merely repeated
      const at = Date.now();
      held.send("range", isAll ? { all: true, at }
        : { all: false, first: plain(range[0]), last: plain(range[1]), at });
    }, 250);
  });
  // plotly itself would only go back to the range that the figure came with
  node.on("plotly_doubleclick", () => {
    clearTimeout(settles);
    wasReset = Date.now();
    if (held.told.steers) held.send("range", { all: true, at: wasReset });
  });
  node.on("plotly_hover", (event) => follow(node, event, Plotly));
  node.on("plotly_unhover", () => others(node, (other) => Plotly.Fx.unhover(other)));
}

// ---- one cursor over all charts that are in sight ----

function follow(node, event, Plotly) {
  if (isHovering || !event.xvals || node._fullLayout.hovermode !== "x unified") return;
  others(node, (other) => {
    const [first, last] = other._fullLayout.xaxis.range.map((x) => other._fullLayout.xaxis.r2c(x));
    const x = event.xvals[0];
    if (x >= Math.min(first, last) && x <= Math.max(first, last)) {
      Plotly.Fx.hover(other, { xval: x }, ["xy"]);
    }
  });
}

function others(node, each) {
  if (isHovering) return;
  isHovering = true;
  try {
    for (const [other, held] of sets) {
      if (!other.isConnected) continue;
      const isAlike = other._fullLayout?.hovermode === "x unified"
        && held.told.steers && held.told.view === sets.get(node).told.view;
      if (other !== node && held.isSeen && held.drawn && isAlike) each(other);
    }
  } finally {
    isHovering = false;
  }
}

// ---- light and dark ----

function looks(node) {
  const style = getComputedStyle(node);
  const of = (name, other) => style.getPropertyValue(name).trim() || other;
  return {
    text: of("--st-text-color", "#1F2933"),
    ground: of("--st-background-color", "#FFFFFF"),
    grid: of("--st-border-color", "rgba(128,128,128,0.25)"),
    font: of("--st-font", "sans-serif"),
  };
}

function dress(layout, look) {
  layout.font = { ...layout.font, color: look.text, family: look.font };
  layout.hoverlabel = {
    bgcolor: look.ground, bordercolor: look.grid,
    font: { color: look.text, family: look.font, size: 12 },
    namelength: 32,
  };
  layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: look.grid, activecolor: look.text };
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    layout[name] = {
      gridcolor: look.grid, linecolor: look.grid, zerolinecolor: look.grid, ...layout[name],
    };
  }
}

let redressing = 0;
function redress() {
  clearTimeout(redressing);
  redressing = setTimeout(() => { for (const node of sets.keys()) refreshed(node); }, 200);
}
// the page's colours come as new style sheets, a moment after the browser's scheme has changed
new MutationObserver(redress).observe(document.head, { childList: true });
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redress);

// ---- saving ----

function fileName(says) {
  return says.slice(0, 60).replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "").toLowerCase();
}

function saveCsv(node, says) {
  const { xaxis } = node._fullLayout;
  const quoted = (text) => `"${String(text).replace(/"/g, '""')}"`;
  const lines = [`# ${says.replace(/\s+/g, " ")} As drawn: long stretches are thinned.`];
  lines.push(`series,${quoted(xaxis.title?.text || "x")},y,z`);
  for (const trace of node._fullData) {
    if (trace.visible !== true || !trace.x) continue;
    if (trace.type === "heatmap") {
      trace.z.forEach((row, i) => Array.from(row).forEach((z, j) => {
        lines.push(`,${trace.x[j]},${quoted(trace.customdata?.[i]?.[j] ?? trace.y[i])},${z}`);
      }));
    } else {
      Array.from(trace.x).forEach((x, i) => {
        if (x !== null) lines.push(`${quoted(trace.name)},${x},${trace.y[i]},`);
      });
    }
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = `${fileName(says)}.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
}
