"use strict";
(() => {
  const data = JSON.parse(document.getElementById("evidence").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const measure = () => document.querySelector("input[name=measure]:checked")?.value ?? "";
  const percent = (value) => (100 * value).toFixed(1);

  /* Making elements: texts are set as text, never as HTML. */
  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const draw = (tag, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  /* Sorting */
  const valueOf = (cell) => {
    const shown = cell.matches(".place") ? cell.querySelector(`[data-m="${measure()}"]`) : cell;
    if (!shown) return null;
    if (shown.dataset.v !== undefined) return shown.dataset.v === "" ? null : Number(shown.dataset.v);
    return cell.matches(".place") ? null : shown.textContent.trim() || null;
  };
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  };
  const order = (table) => {
    const heading = table.querySelector('th[aria-sort="ascending"], th[aria-sort="descending"]');
    if (!heading) return;
    const sign = heading.getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[heading.cellIndex]), row]);
    rows.sort(([a], [b]) => compare(a, b, sign));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  for (const button of all("th[aria-sort] button")) {
    button.addEventListener("click", () => {
      const heading = button.closest("th");
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of all("th[aria-sort]", heading.closest("table"))) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      order(heading.closest("table"));
    });
  }
  for (const radio of all("input[name=measure]")) {
    radio.addEventListener("change", () => all("table.heat").forEach(order));
  }

  /* Filter */
  const filter = document.getElementById("filter");
  const fits = (element, words) => {
    const text = ` ${element.dataset.words} `;
    return words.every((word) => (word.includes("=") ? text.includes(` ${word} `) : text.includes(word)));
  };
  const narrow = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const table of all("table.heat")) {
      const columns = new Set();
      for (const row of table.tBodies[0].rows) {
        let any = false;
        for (const cell of all(".place[data-words]", row)) {
          const fit = fits(cell, words);
          cell.classList.toggle("dim", !fit);
          if (fit) columns.add(cell.cellIndex);
          any ||= fit;
        }
        row.hidden = !any;
      }
      for (const row of table.rows) {
        for (const cell of row.cells) {
          if (cell.dataset.column) cell.hidden = !columns.has(cell.cellIndex);
        }
      }
      table.closest(".grid").hidden = columns.size === 0;
    }
    const rows = all("#runs tbody tr");
    for (const row of rows) {
      row.hidden = !fits(row, words);
      count += !row.hidden;
    }
    document.getElementById("count").textContent = words.length ? `${count} of ${rows.length} cells` : "";
  };
  filter.addEventListener("input", narrow);

  /* Tip: what the cell under the pointer or the focus says in full */
  const tip = document.getElementById("tip");
  const showTip = (link) => {
    const told = link.querySelector(`[data-m="${measure()}"] .told`) ?? link.querySelector(".state .told");
    tip.hidden = !told;
    if (!told) return;
    tip.textContent = told.textContent;
    const box = link.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left), document.documentElement.clientWidth - tip.offsetWidth - 8);
    const below = box.bottom + 6 + tip.offsetHeight < window.innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? box.bottom + 6 : box.top - tip.offsetHeight - 6}px`;
  };
  for (const link of all(".place a")) {
    for (const name of ["mouseenter", "focus"]) link.addEventListener(name, () => showTip(link));
    for (const name of ["mouseleave", "blur"]) link.addEventListener(name, () => { tip.hidden = true; });
  }
  window.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });

  /* Evidence */
  const ancestors = (claim) => claim.before.map((key) => data.claims[key]);
  const beforeDefence = (shares) => Object.fromEntries(Object.entries(shares).filter(([name]) => !name.includes("_rebound")));
  const table = (caption, header, rows) => make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", {}, make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...header.map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...rows.map(([name, ...cells]) => make("tr", {}, make("th", { scope: "row" }, name),
        ...cells.map((cell) => make("td", {}, cell)))))));
  const fold = (title, text) => text
    ? make("details", {}, make("summary", {}, title), make("pre", { tabindex: "0" }, text)) : null;
  const told = (share) => {
    if (!share) return "–";
    const [value, low, high, n] = share;
    return make("span", {}, make("b", {}, percent(value)), make("span", { class: "small" },
      `${percent(low)}–${percent(high)}${n === undefined ? "" : `, n = ${n.toLocaleString("en")}`}`));
  };
  const number = (value, digits, unit) => (typeof value === "number" ? `${value.toLocaleString("en", { maximumFractionDigits: digits })}${unit}` : "–");
  const plain = (value) => (value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));

  const numbers = (position, runs) => {
    const shares = runs.map((claim) => Object.assign({}, ...ancestors(claim).map((c) => beforeDefence(c.shares)), claim.shares));
    const several = runs.length > 1;
    const rows = Object.keys(data.titles).filter((name) => shares.some((of) => of[name])).map((name) => [
      data.titles[name],
      ...(several ? [told(position.means[name])] : []),
      ...shares.map((of) => told(of[name])),
    ]);
    const beside = (title, tell) => [title, ...(several ? [""] : []), ...runs.map(tell)];
    rows.push(
      beside("seconds", (c) => number(c.cost?.seconds, 1, " s")),
      beside("peak memory", (c) => number(c.cost?.peak_mb, 0, " MB")),
      beside("peak GPU memory", (c) => number(c.cost?.peak_gpu_mb, 0, " MB")),
      beside("encoder passes", (c) => number(c.passes, 0, "")),
    );
    const fields = [...new Set(runs.flatMap((claim) => Object.keys(claim.record)))];
    for (const name of fields.filter((field) => field !== "passes")) rows.push(beside(name, (c) => plain(c.record[name])));
    const said = rows.filter(([, ...cells]) => cells.some((cell) => cell !== "" && cell !== "–"));
    const seeds = position.runs.map(([seed]) => (seed === "" ? "value" : `seed ${seed}`));
    return table("Shares in % with their 95 % intervals", ["", ...(several ? ["mean"] : []), ...seeds], said);
  };

  const pictures = (claim) => {
    const found = [...ancestors(claim), claim].flatMap((c) => c.pictures);
    const figures = found.map(([name, place]) => {
      const caption = Object.hasOwn(data.captions, name) ? data.captions[name] : name;
      const shown = place === null ? make("p", { class: "quiet" }, "Left out, as the file would be too large.")
        : make("img", { src: data.pictures[place], alt: caption });
      return make("figure", {}, shown, make("figcaption", {}, caption));
    });
    return figures.length ? make("div", { class: "strips" }, ...figures) : null;
  };

  const curve = ([name, points]) => {
    const width = 260, height = 90, edge = 3;
    const values = points.map(([, value]) => value);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const last = points[points.length - 1];
    const x = (step) => edge + ((width - 2 * edge) * (step - points[0][0])) / Math.max(1, last[0] - points[0][0]);
    const y = (value) => height - edge - ((height - 2 * edge) * (value - low)) / (high - low || 1);
    const line = points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    const spoken = `${name}: loss ${values[0]} at step ${points[0][0]}, ${last[1]} at step ${last[0]}, from ${low} to ${high} in all`;
    const chart = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken },
      draw("polyline", { points: line, class: "curve" }));
    return make("figure", {}, chart, make("figcaption", {}, `${name}: loss ${values[0]} → ${last[1]} in ${last[0]} steps`));
  };

  const run = (seed, claim) => {
    const curves = Object.entries(claim.curves);
    const before = ancestors(claim);
    return make("section", {},
      make("h3", {}, seed === "" ? "The cell" : `Seed ${seed}`, " ", make("span", { class: `pill ${claim.outcome}` }, claim.outcome)),
      claim.reason ? make("p", {}, claim.reason) : null,
      ...claim.doubts.map((doubt) => make("p", { class: "note bad" }, `Doubt: ${doubt}`)),
      pictures(claim) ?? make("p", { class: "quiet" }, "No pictures were kept."),
      curves.length ? make("div", { class: "curves" }, ...curves.map(curve)) : null,
      fold("Traceback", claim.traceback),
      fold("Log, last lines", claim.log),
      fold("Settings, of the cell and of those before it", JSON.stringify([claim, ...before].map((c) => ({ kind: c.kind, ...c.names, ...c.settings })), null, 1)),
      fold("Hardware, versions, commit", JSON.stringify({ ...data.origins[claim.origin], created: claim.created }, null, 1)),
    );
  };

  const dialog = document.getElementById("dialog");
  const show = () => {
    const link = location.hash.slice(1);
    if (!Object.hasOwn(data.positions, link)) {
      if (dialog.open) dialog.close();
      return;
    }
    const position = data.positions[link];
    const runs = position.runs.map(([, key]) => data.claims[key]);
    const missing = position.notRun.map((seed) => (seed === "" ? "this cell" : `seed ${seed}`));
    document.getElementById("dialog-title").replaceChildren(position.title);
    document.getElementById("dialog-body").replaceChildren(...[
      make("p", { class: "quiet" }, position.table),
      missing.length ? make("p", { class: "note" }, `Not run: ${missing.join(", ")}.`) : null,
      runs.length ? numbers(position, runs) : null,
      ...runs.map((claim, i) => run(position.runs[i][0], claim)),
    ].filter(Boolean));
    tip.hidden = true;
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };
  dialog.addEventListener("close", () => {
    if (Object.hasOwn(data.positions, location.hash.slice(1))) history.replaceState(null, "", location.pathname + location.search);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.getElementById("close").addEventListener("click", () => dialog.close());
  window.addEventListener("hashchange", show);
  show();
})();
