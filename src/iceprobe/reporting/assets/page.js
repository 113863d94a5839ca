// Sorting tables by a click on a heading, and drawing the charts. No network, no dependencies
// besides the chart engine above.
(() => {
  "use strict";

  function sort(table, column, descending) {
    const body = table.tBodies[0];
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const rows = Array.from(body.rows).sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // unknown values last
      const numeric = !Number.isNaN(Number(x)) && !Number.isNaN(Number(y));
      const order = numeric ? Number(x) - Number(y) : x.localeCompare(y);
      return descending ? -order : order;
    });
    body.append(...rows);
  }

  for (const button of document.querySelectorAll("table.sortable th button")) {
    button.addEventListener("click", () => {
      const heading = button.closest("th");
      const before = heading.getAttribute("aria-sort");
      const first = heading.dataset.first ?? "ascending"; // what a first click gives
      const opposite = first === "ascending" ? "descending" : "ascending";
      const order = before === first ? opposite : first;
      for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      sort(heading.closest("table"), heading.cellIndex, order === "descending");
    });
  }

  // On a narrow page each row becomes a block: its cells need their headings beside them.
  for (const table of document.querySelectorAll("table.stack")) {
    const names = Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent.trim());
    for (const row of table.tBodies[0].rows) {
      Array.from(row.cells).forEach((cell, i) => { if (i && names[i]) cell.dataset.name = names[i]; });
    }
  }

  // Paper can't be unfolded: what is closed opens for the print, and closes again.
  let opened = [];
  const unfold = () => {
    opened = [...opened, ...document.querySelectorAll("details.maps:not([open])")];
    for (const one of opened) one.open = true;
  };
  window.addEventListener("beforeprint", unfold);
  window.addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
    opened = [];
  });

  for (const place of document.querySelectorAll(".chart")) {
    const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
    const actions = { export: { svg: true, png: true }, source: false, compiled: false, editor: false };
    window.vegaEmbed(place, spec, {
      renderer: "svg",
      actions,
      scaleFactor: 3,
      downloadFileName: place.dataset.spec,
      tooltip: { theme: "custom" },
    }).catch((error) => {
      place.textContent = `This chart could not be drawn: ${error.message}`;
      console.error(error);
    });
  }
})();
