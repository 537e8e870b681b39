// The fleet's table: keeps its rows, order, choice and place while new values come in.
// What is drawn is what the last whole message said, with the changes that the newest one brings.

const MOST_DRAWN = 250; // rows at once; a button draws more
const SETTLED_MS = 1200; // after so long without typing, the search goes into the address
const TYPING_MS = 180;
const LISTS = [
  ["all", "All"], ["live", "Running"], ["trouble", "Want a person"], ["ended", "Ended"], ["archived", "Archived"],
];

// On its way to another page Streamlit puts this page's path with that page's query into the history: a
// step back that leads to where one came from. That one entry is left out.
function withoutHalfAStep() {
  const { history, location } = window;
  const { pathname } = location;
  const before = Object.getOwnPropertyDescriptor(history, "pushState");
  const push = history.pushState;
  const restore = () => {
    if (history.pushState !== guarded) return;
    if (before) Object.defineProperty(history, "pushState", before);
    else delete history.pushState;
  };
  const guarded = (state, title, url) => {
    if (new URL(url, document.baseURI).pathname === pathname) return;
    restore();
    push.call(history, state, title, url);
  };
  history.pushState = guarded;
  setTimeout(restore, 5000);
}

let COLUMNS, element, role, age;

function same(one, other) {
  return one === other || JSON.stringify(one) === JSON.stringify(other);
}

class FleetTable {
  constructor(root) {
    this.root = root;
    this.rows = new Map(); // {id: row}
    this.entries = new Map(); // {id: what is drawn of it}
    this.chosen = new Set();
    this.base = null;
    this.view = null;
    this.found = { find: "", ids: null, problem: "" };
    this.mostDrawn = MOST_DRAWN;
    this.build();
    this.clock = setInterval(() => this.tick(), 1000);
  }

  address(id) {
    const asked = new URLSearchParams({ run: id });
    return new URL(`${this.runPath}?${asked}`, document.baseURI).href;
  }

  // --- what comes in ---

  take(data, component) {
    this.send = component;
    this.runPath = data.run_path;
    this.looks = data.looks;
    if (!this.view || data.is_new_view) {
      this.view = { ...data.view };
      this.search.value = this.view.find;
    }
    if (data.rows) {
      this.base = data.base;
      this.late_s = Date.now() / 1000 - data.now_s; // the two clocks may differ
      const there = new Set(data.rows.map((row) => row.id));
      for (const id of [...this.rows.keys()]) if (!there.has(id)) this.forget(id);
      for (const row of data.rows) this.rows.set(row.id, this.kept(row));
      this.whole = new Map(this.rows);
    } else if (data.base !== this.base && data.base !== this.told?.number) {
      component.setTriggerValue("ask", "all"); // the message it builds on was overtaken by this one
      return;
    } else {
      if (data.base !== this.base) {
        this.base = data.base;
        this.whole = this.told.rows;
      }
      const changed = new Map(data.changed.map((row) => [row.id, row]));
      const gone = new Set(data.gone);
      for (const id of [...this.rows.keys()]) if (!this.whole.has(id) && !changed.has(id)) this.forget(id);
      for (const [id, row] of this.whole) if (!gone.has(id)) this.rows.set(id, this.kept({ ...row, ...changed.get(id) }));
      for (const [id, row] of changed) if (!this.whole.has(id)) this.rows.set(id, this.kept(row));
      for (const id of gone) this.forget(id);
    }
    this.numArchived = data.num_archived;
    this.isArchived = data.is_archived;
    this.mostChosen = data.most_chosen;
    if (data.found.find === this.view.find.trim()) this.found = { ...data.found, set: data.found.ids && new Set(data.found.ids) };
    this.root.classList.toggle("comparable", this.mostChosen > 0);
    this.root.querySelector(".loading")?.remove();
    this.body.parentElement.hidden = false;
    // rows do not move away under a pointer; they do when it has left
    this.draw(this.body.matches(":hover"));
    if (!data.wants_word) return;
    this.told = { number: data.number, rows: new Map(this.rows) }; // later messages may build on this one
    requestAnimationFrame(() => component.setTriggerValue("ask", data.number));
  }

  // the row as it is drawn already, where nothing of it has changed
  kept(row) {
    const known = this.rows.get(row.id);
    return known && same(known, row) ? known : row;
  }

  forget(id) {
    this.rows.delete(id);
    this.entries.get(id)?.row.remove();
    this.entries.delete(id);
  }

  // --- what goes out ---

  tell(isSettled) {
    clearTimeout(this.settling);
    if (!isSettled) this.settling = setTimeout(() => this.tell(true), SETTLED_MS);
    this.send.setStateValue("view", { ...this.view, find: this.view.find.trim(), is_settled: isSettled });
  }

  change(changes) {
    this.view = { ...this.view, ...changes };
    this.mostDrawn = MOST_DRAWN;
    this.draw(false);
    this.tell(true);
  }

  // --- the frame, built once ---

  build() {
    this.search = element("input", "search");
    this.search.type = "search";
    this.search.placeholder = "name, tag, project, or optim.learning_rate=0.001";
    this.search.setAttribute("aria-label", "Find runs by name, tag, project or configuration");
    this.search.addEventListener("input", () => {
      this.view.find = this.search.value;
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.tell(false), TYPING_MS);
    });
    this.search.addEventListener("change", () => {
      clearTimeout(this.typing);
      this.tell(true);
    });
    this.lists = element("div", "lists");
    this.lists.setAttribute("role", "group");
    this.lists.setAttribute("aria-label", "Which runs");
    for (const [key, title] of LISTS) {
      const button = element("button", "", title, " ", element("span", "count"));
      button.type = "button";
      button.dataset.key = key;
      button.addEventListener("click", () => this.change({ show: key }));
      this.lists.append(button);
    }
    this.order = element("select", "order");
    this.order.setAttribute("aria-label", "Sort by");
    for (const column of COLUMNS)
      for (const isDown of [!column.up, !!column.up]) {
        const option = element("option", "", `${column.title} ${isDown ? "↓" : "↑"}`);
        option.value = `${column.key} ${isDown}`;
        this.order.append(option);
      }
    this.order.addEventListener("change", () => {
      const [sort, isDown] = this.order.value.split(" ");
      this.change({ sort, is_down: isDown === "true" });
    });
    this.problem = element("p", "problem");
    this.problem.setAttribute("role", "status");
    this.body = element("tbody", "");
    this.head = element("tr", "");
    this.head.append(role(element("th", "choice", element("span", "unseen", "Compare")), "columnheader"));
    for (const column of COLUMNS) {
      const button = element("button", "", column.title, element("span", "arrow"));
      button.type = "button";
      if (column.help) button.title = column.help;
      button.addEventListener("click", () => this.sortBy(column));
      this.head.append(role(element("th", column.key, button), "columnheader"));
    }
    const head = role(element("thead", "", role(this.head, "row")), "rowgroup");
    const table = role(element("table", "", head, role(this.body, "rowgroup")), "table");
    table.setAttribute("aria-label", "Runs");
    table.hidden = true;
    this.body.addEventListener("click", (event) => this.clicked(event));
    this.body.addEventListener("pointerleave", () => this.draw(false));
    this.empty = element("p", "empty");
    this.more = element("button", "more");
    this.more.type = "button";
    this.more.addEventListener("click", () => {
      this.mostDrawn += MOST_DRAWN;
      this.draw(false);
    });
    this.basket = element("div", "basket");
    this.root.append(
      element("div", "controls", this.search, this.lists, this.order),
      this.problem, table, this.empty, this.more, this.basket,
    );
  }

  sortBy(column) {
    const isSame = this.view.sort === column.key;
    this.change({ sort: column.key, is_down: isSame ? !this.view.is_down : !column.up });
  }

  clicked(event) {
    if (event.defaultPrevented || event.button !== 0) return;
    const row = event.target.closest("tr");
    const link = event.target.closest("a");
    if (!row || event.target.closest("label")) return;
    // a new tab, or a text that was marked, is the browser's business
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (!link && String(window.getSelection())) return;
    event.preventDefault();
    withoutHalfAStep();
    this.send.setTriggerValue("open", row.dataset.id);
  }

  choose(id, isChosen) {
    if (isChosen) this.chosen.add(id);
    else this.chosen.delete(id);
    this.drawBasket();
  }

  // --- drawing ---

  draw(isInPlace) {
    const wanted = [...this.rows.values()].filter((row) => !this.found.set || this.found.set.has(row.id));
    for (const button of this.lists.children) {
      const key = button.dataset.key;
      const isPressed = key === this.view.show;
      button.setAttribute("aria-pressed", isPressed);
      button.lastChild.textContent = this.counted(key, wanted);
      button.hidden = key === "archived" && !this.numArchived && !isPressed;
    }
    const isOther = (this.view.show === "archived") !== this.isArchived; // the others are on their way
    const shown = isOther ? [] : wanted.filter((row) => this.isIn(this.view.show, row));
    if (!isInPlace) this.sorted(shown);
    this.drawRows(shown, isInPlace);
    for (const cell of this.head.children) {
      const isThis = cell.className === this.view.sort;
      if (cell.className === "choice") continue;
      cell.setAttribute("aria-sort", isThis ? (this.view.is_down ? "descending" : "ascending") : "none");
      cell.querySelector(".arrow").textContent = isThis ? (this.view.is_down ? "↓" : "↑") : "";
    }
    this.order.value = `${this.view.sort} ${this.view.is_down}`;
    this.problem.textContent = this.found.problem;
    this.empty.textContent = shown.length ? "" : isOther ? "Reading the runs…"
      : this.found.set ? "No run matches; take a word away to see more." : "No run is in this list.";
    const left = shown.length - this.mostDrawn;
    this.more.hidden = left <= 0;
    this.more.textContent = `Show more: ${left} are not drawn yet`;
    this.drawBasket();
    this.tick();
  }

  isIn(key, row) {
    return key === "all" || key === "archived" || row.groups.includes(key);
  }

  counted(key, wanted) {
    if (key === "archived" && !this.isArchived) return this.numArchived;
    if (key !== "archived" && this.isArchived) return "";
    return wanted.filter((row) => this.isIn(key, row)).length;
  }

  sorted(rows) {
    const { order } = COLUMNS.find((column) => column.key === this.view.sort);
    const sign = this.view.is_down ? -1 : 1;
    const keys = new Map(rows.map((row) => [row.id, order(row, this) ?? null]));
    rows.sort((one, other) => {
      const a = keys.get(one.id), b = keys.get(other.id);
      if (a !== b) {
        if (a === null || b === null) return a === null ? 1 : -1; // what is not known stands last
        return a < b ? -sign : sign;
      }
      return other.start_s - one.start_s || (one.id < other.id ? -1 : 1);
    });
  }

  drawRows(shown, isInPlace) {
    const drawn = new Set();
    let before = null;
    if (isInPlace) {
      const rank = new Map([...this.body.children].map((row, at) => [row.dataset.id, at]));
      shown.sort((one, other) => (rank.get(one.id) ?? 1e9) - (rank.get(other.id) ?? 1e9));
    }
    for (const row of shown.slice(0, this.mostDrawn)) {
      const entry = this.drawnRow(row);
      drawn.add(row.id);
      const place = before ? before.nextSibling : this.body.firstChild;
      if (place !== entry.row) this.body.insertBefore(entry.row, place);
      before = entry.row;
    }
    for (const line of [...this.body.children]) if (!drawn.has(line.dataset.id)) line.remove();
  }

  drawnRow(row) {
    let entry = this.entries.get(row.id);
    if (!entry) {
      entry = { row: role(element("tr", ""), "row"), cells: [] };
      entry.row.dataset.id = row.id;
      entry.box = element("input", "");
      entry.box.type = "checkbox";
      entry.box.addEventListener("change", () => this.choose(row.id, entry.box.checked));
      entry.row.append(role(element("td", "choice", element("label", "", entry.box)), "cell"));
      for (const column of COLUMNS) {
        const cell = column.head ? role(element("th", column.key), "rowheader") : role(element("td", column.key), "cell");
        cell.dataset.label = column.title;
        entry.cells.push(cell);
        entry.row.append(cell);
      }
      this.entries.set(row.id, entry);
    }
    const before = entry.of;
    if (before === row) return entry;
    entry.of = row;
    entry.row.className = row.lamp;
    entry.box.setAttribute("aria-label", `Compare ${row.name}`);
    COLUMNS.forEach((column, at) => {
      if (before && column.of.every((key) => same(before[key], row[key]))) return;
      const parts = column.draw(row, this).filter((part) => part !== null);
      const cell = entry.cells[at];
      const hasFocus = cell.contains(this.root.getRootNode().activeElement);
      cell.replaceChildren(...parts);
      if (hasFocus) cell.querySelector("a")?.focus();
    });
    return entry;
  }

  drawBasket() {
    const isFull = this.chosen.size >= this.mostChosen;
    for (const [id, entry] of this.entries) {
      entry.box.checked = this.chosen.has(id);
      entry.box.disabled = isFull && !entry.box.checked;
    }
    this.basket.hidden = !this.mostChosen || !this.chosen.size;
    if (this.basket.hidden) return;
    const go = element("button", "primary", "Compare");
    go.type = "button";
    go.disabled = this.chosen.size < 2;
    go.addEventListener("click", () => {
      withoutHalfAStep();
      this.send.setTriggerValue("compare", [...this.chosen]);
    });
    const clear = element("button", "", "Choose none");
    clear.type = "button";
    clear.addEventListener("click", () => {
      this.chosen.clear();
      this.drawBasket();
    });
    const said = isFull ? `${this.chosen.size} runs chosen, which is the most` : this.chosen.size === 1 ? "1 run chosen" : `${this.chosen.size} runs chosen`;
    this.basket.replaceChildren(element("span", "", said), go, clear);
  }

  tick() {
    if (!this.root.isConnected) {
      clearInterval(this.clock);
      return;
    }
    if (document.hidden || this.base === null) return;
    const now_s = Date.now() / 1000 - this.late_s;
    for (const said of this.root.querySelectorAll(".age")) {
      const { since_s, before, behind } = said.since;
      const text = `${before}${age(now_s - since_s)}${behind}`;
      if (said.textContent !== text) said.textContent = text;
    }
  }
}

// Draws a message; called by the component's start, which has loaded the columns and the style sheet.
export function draw(component, cells, look) {
  const { parentElement } = component;
  const root = parentElement.querySelector(".fleet");
  ({ COLUMNS, element, role, age } = cells);
  if (!parentElement.adoptedStyleSheets.length) {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(look);
    parentElement.adoptedStyleSheets = [sheet];
  }
  root.table ??= new FleetTable(root);
  root.table.take(component.data, component);
  return () => {
    // also called where a newer message has overtaken this one: the table lives on then
    if (!root.isConnected) clearInterval(root.table.clock);
  };
}
