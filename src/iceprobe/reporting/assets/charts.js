// Draws the charts; writes their numbers as text and as tables; saves them as SVG and PNG.
(() => {
  "use strict";
  const { equip, permalink, reach, tool, tools } = window.iceprobe;
  const SAID = 1500; // letters of a description; of more marks the table has the numbers

  // Of every layer with hover text: the columns that it shows, and a row a mark.
  function numbers(spec, data = [], encoding = {}) {
    const rows = spec.data?.values ?? data;
    const here = { ...encoding, ...spec.encoding };
    if (spec.layer) return spec.layer.flatMap((one) => numbers(one, rows, here));
    const shown = [here.tooltip ?? []].flat();
    if (!shown.length) return [];
    const titles = shown.map((one) => one.title?.trim() || (one.field === "series" ? "curve" : one.field));
    const text = (one, row) => {
      const value = row[one.field];
      if (typeof value !== "number") return String(value ?? "");
      const decimals = /\.(\d)f$/.exec(one.format ?? "");
      const plain = decimals ? value.toFixed(Number(decimals[1])) : String(Number(value.toPrecision(4)));
      return plain.replace("-", "\u2212");
    };
    const right = shown.map((one) => rows.some((row) => typeof row[one.field] === "number"));
    return [{ titles, right, rows: rows.map((row) => shown.map((one) => text(one, row))) }];
  }

  // Layers that show the same marks are one table.
  function tables(spec) {
    const found = new Map();
    for (const one of numbers(spec)) {
      const key = one.titles.join("\n");
      const before = found.get(key) ?? { ...one, rows: [] };
      const known = new Set(before.rows.map(String));
      before.rows.push(...one.rows.filter((row) => !known.has(String(row))));
      found.set(key, before);
    }
    return [...found.values()];
  }

  function described(made) {
    const said = made.flatMap(({ titles, rows }) => rows.map((row) => (
      row.map((value, i) => (i ? `${titles[i]} ${value}` : value)).join(", ")
    )));
    return said.join("; ");
  }

  function tableOf(caption, { titles, right, rows }) {
    const table = document.createElement("table");
    table.className = "compact";
    table.createCaption().textContent = caption;
    const fill = (row, values, kind) => {
      values.forEach((value, i) => {
        const cell = document.createElement(i === 0 || kind === "th" ? "th" : "td");
        cell.textContent = value;
        if (kind === "th") cell.scope = "col";
        else if (i === 0) cell.scope = "row";
        if (right[i]) cell.className = "n";
        row.append(cell);
      });
    };
    fill(table.createTHead().insertRow(), titles, "th");
    const body = table.createTBody();
    for (const values of rows) fill(body.insertRow(), values, "td");
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    scroll.append(table);
    return scroll;
  }

  // The drawing by itself: on white, with its title.
  async function standalone(view, title) {
    const drawn = new DOMParser().parseFromString(await view.toSVG(), "image/svg+xml");
    const root = drawn.documentElement;
    root.removeAttribute("style");
    const made = (name, fill) => {
      const one = drawn.createElementNS(root.namespaceURI, name);
      fill(one);
      return one;
    };
    root.prepend(
      made("title", (one) => { one.textContent = title; }),
      made("rect", (one) => {
        for (const name of ["width", "height"]) one.setAttribute(name, "100%");
        one.setAttribute("fill", "#ffffff");
      }),
    );
    return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(drawn)}\n`;
  }

  function save(address, name) {
    const link = document.createElement("a");
    link.href = address;
    link.download = name;
    link.click();
  }

  function finish(place, words, spec, view) {
    const figure = place.closest("figure");
    const title = figure.querySelector("figcaption b").textContent;
    const made = tables(spec);
    const said = described(made);
    const marks = made.reduce((sum, one) => sum + one.rows.length, 0);
    const more = said.length <= SAID ? said : `${marks} marks, whose numbers are in the table below`;
    // Vega has its own words for the drawing and its parts; these stand for all of it.
    place.setAttribute("role", "img");
    place.removeAttribute("aria-roledescription");
    place.setAttribute("aria-label", marks ? `${words} ${more}.` : words);
    place.querySelector("svg").setAttribute("aria-hidden", "true");
    const svg = tool("SVG", `Save as SVG: ${title}`, async () => {
      const address = URL.createObjectURL(new Blob([await standalone(view, title)], { type: "image/svg+xml" }));
      save(address, `${figure.id}.svg`);
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
    });
    const png = tool("PNG", `Save as PNG: ${title}`, async () => {
      save(await view.toImageURL("png", 3), `${figure.id}.png`);
    });
    const word = document.createElement("span");
    word.textContent = "Save";
    word.setAttribute("aria-hidden", "true");
    figure.querySelector("figcaption").prepend(tools(word, svg, png, permalink(figure.id, title)));
    if (!marks) return;
    const fold = document.createElement("details");
    fold.className = "numbers";
    const summary = document.createElement("summary");
    summary.textContent = `Numbers of ${title}`;
    fold.append(summary);
    fold.addEventListener("toggle", () => {
      if (fold.querySelector("table")) return;
      for (const one of made) {
        const table = tableOf(title, one);
        fold.append(table);
        equip(table.querySelector("table"));
      }
      reach();
    });
    figure.append(fold);
  }

  for (const place of document.querySelectorAll(".chart")) {
    const words = place.getAttribute("aria-label");
    const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
    window.vegaEmbed(place, spec, { renderer: "svg", actions: false, tooltip: { theme: "custom" } })
      .then(({ view }) => finish(place, words, spec, view))
      .catch((error) => {
        place.textContent = `This chart could not be drawn: ${error.message}`;
        place.setAttribute("aria-label", place.textContent);
        console.error(error);
      });
  }
  Object.assign(window.iceprobe, { tables, standalone });
})();
