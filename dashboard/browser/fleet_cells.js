// The columns of the fleet's table: title, order, and how a cell is drawn.
// Text of a run is only ever written as text: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

// a sign for each health, told apart by its shape; 16 x 16, filled by even-odd
const SIGNS = {
  healthy: "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1zM7 10.9l4.6-4.6-1.1-1.1L7 8.7 5.5 7.2 4.4 8.3z",
  warning: "M8 1.2 15.4 14.4H.6zM7.2 6v4.2h1.6V6zm0 5.4V13h1.6v-1.6z",
  critical: "M5 1h6l4 4v6l-4 4H5l-4-4V5zM7.2 4v5h1.6V4zm0 6.4V12h1.6v-1.6z",
  silent: "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1zm0 1.6A5.4 5.4 0 0 0 8 13.4 5.4 5.4 0 0 0 8 2.6zM4.4 7.2h1.8v1.6H4.4zm2.7 0h1.8v1.6H7.1zm2.7 0h1.8v1.6H9.8z",
  halted: "M5 1h6l4 4v6l-4 4H5l-4-4V5zm1 4v6h1.5V5zm2.5 0v6H10V5z",
  crashed: "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1zM5.6 4.5 4.5 5.6 6.9 8l-2.4 2.4 1.1 1.1L8 9.1l2.4 2.4 1.1-1.1L9.1 8l2.4-2.4-1.1-1.1L8 6.9z",
  finished: "M3 1h1.6v1H14l-2 3.5L14 9H4.6v6H3z",
  stopped: "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1zM5.5 5.5v5h5v-5z",
};

export function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

// said aloud, since a table that is laid out as cards is none to a reader of the screen
export function role(node, name) {
  node.setAttribute("role", name);
  return node;
}

function drawing(width, height, className, label) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("class", className);
  if (label) {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
  } else svg.setAttribute("aria-hidden", "true");
  return svg;
}

function path(svg, shape, className) {
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("d", shape);
  made.setAttribute("class", className);
  made.setAttribute("fill-rule", "evenodd");
  svg.append(made);
}

function sign(name, className) {
  const svg = drawing(16, 16, className, "");
  path(svg, SIGNS[name] || SIGNS.stopped, "");
  return svg;
}

// the two largest units, but no seconds beside minutes: a row is glanced at
export function age(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const two = (large, unit, small, rest) => (small ? `${large} ${unit} ${small} ${rest}` : `${large} ${unit}`);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return two(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
}

// an age that the table's clock keeps up: words before and behind, and since when
function ticking(since_s, before, behind) {
  const made = element("span", "age");
  made.since = { since_s, before, behind };
  return made;
}

function numbered(cell, column, className) {
  const made = element("span", `number ${className || ""}`, cell.text || "–");
  if (cell.help) made.title = cell.help;
  return made;
}

export const COLUMNS = [
  {
    key: "name", title: "Run", of: ["name", "project", "note", "tags"], order: (row) => row.name.toLowerCase(), up: true, head: true,
    draw(row, table) {
      const link = element("a", "name", row.name);
      link.href = table.address(row.id);
      const under = [row.project, row.note].filter(Boolean).join(" · ");
      const tags = row.tags.map((tag) => element("span", "tag", tag));
      return [link, ...tags, under ? element("div", "under", under) : null];
    },
  },
  {
    key: "lamp", title: "Health", of: ["lamp"], order: (row, table) => table.looks[row.lamp].rank, up: true,
    draw(row, table) {
      const look = table.looks[row.lamp];
      return [element("span", `pill ${look.colour}`, sign(row.lamp, "sign"), element("span", "", look.word))];
    },
  },
  {
    key: "doing", title: "Doing", of: ["doing"], order: (row) => row.doing.text, up: true,
    draw(row) {
      const { text, since_s, is_over, more, more_s } = row.doing;
      const said = since_s === null ? element("span", "", text)
        : is_over ? ticking(since_s, `${text} `, " ago") : ticking(since_s, `${text} for `, "");
      if (!more) return [said];
      return [said, element("div", "under", more_s ? ticking(more_s, `${more}, `, " ago") : more)];
    },
  },
  {
    key: "step", title: "Step", of: ["step"], order: (row) => row.step.share ?? row.step.value,
    draw(row) {
      const { text, of, share, left } = row.step;
      if (!text) return [element("span", "number", "–")];
      const parts = [element("span", "number", of ? `${text} / ${of}` : text)];
      if (share !== null) {
        const bar = element("div", "bar", element("i", ""));
        bar.firstChild.style.width = `${100 * share}%`;
        bar.title = `${(100 * share).toFixed(1)} %`;
        parts.push(bar);
      }
      return left ? [...parts, element("div", "under", left)] : parts;
    },
  },
  {
    key: "loss", title: "Loss", of: ["loss", "spark"], order: (row) => row.loss.value, up: true,
    help: "The newest loss, and its course on a logarithmic scale: the mean, and how far it went.",
    draw(row) {
      const said = numbered(row.loss);
      if (!row.spark) return [said];
      const svg = drawing(192, 48, "spark", `course of the loss, now ${row.loss.text}`);
      if (row.spark[1]) path(svg, row.spark[1], "band");
      path(svg, row.spark[0], "line");
      return [said, svg];
    },
  },
  {
    key: "speed", title: "Tokens/s", of: ["speed", "live"], order: (row) => row.speed.value,
    draw: (row) => [numbered(row.speed, "speed", row.live ? "" : "past")],
  },
  {
    key: "use", title: "Utilisation", of: ["use", "live"], order: (row) => row.use.value,
    help: "FLOPs of the model per second, over what the device could do at most.",
    draw: (row) => [numbered(row.use, "use", row.live ? "" : "past")],
  },
  {
    key: "alerts", title: "Alerts", of: ["alerts"], order: (row) => (row.alerts ? row.alerts.value : 0),
    help: "Open alerts, the worst first.",
    draw(row) {
      if (!row.alerts) return [element("span", "none", "none")];
      const colour = { critical: "red", warning: "orange", info: "blue" }[row.alerts.worst];
      const shape = { critical: "critical", warning: "warning", info: "silent" }[row.alerts.worst];
      return [element("span", `pill ${colour}`, sign(shape, "sign"), element("span", "", row.alerts.text))];
    },
  },
  {
    key: "beat", title: "Heartbeat", of: ["beat_s"], order: (row) => (row.beat_s === null ? null : -row.beat_s), up: true,
    help: "How long ago the trainer was last heard of.",
    draw: (row) => [row.beat_s === null ? element("span", "none", "–") : ticking(row.beat_s, "", " ago")],
  },
  {
    key: "start", title: "Started", of: ["start_s", "took"], order: (row) => row.start_s,
    draw(row) {
      const said = ticking(row.start_s, "", " ago");
      said.title = new Date(1000 * row.start_s).toLocaleString();
      return [said, row.took ? element("div", "under", row.took) : null];
    },
  },
];
