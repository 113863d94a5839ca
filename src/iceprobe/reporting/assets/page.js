// What readers do with the page: sort a table, print it, link to a part of it, read it in the dark.
// No network, no dependencies besides the charts' engine.
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
    const names = Array.from(table.tHead.rows[0].cells, (cell) => (
      cell.querySelector(".unseen") ? "" : cell.textContent.trim()
    ));
    for (const row of table.tBodies[0].rows) {
      Array.from(row.cells).forEach((cell, i) => { if (i && names[i]) cell.dataset.name = names[i]; });
    }
  }

  // What is wider than its place, or taller, is scrolled by keys as well.
  const reach = () => {
    for (const one of document.querySelectorAll(".scroll")) {
      if (one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1) {
        one.tabIndex = 0;
        one.setAttribute("role", "group");
        const of = one.querySelector("caption")?.textContent ?? one.querySelector("img")?.alt;
        one.setAttribute("aria-label", `${of}, scrolls`);
      } else {
        for (const name of ["tabindex", "role", "aria-label"]) one.removeAttribute(name);
      }
    }
  };
  reach();
  window.addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true); // a table that is unfolded

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

  // Light or dark.
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const theme = document.createElement("button");
  theme.type = "button";
  theme.className = "theme";
  const say = () => { theme.textContent = isDark() ? "Light page" : "Dark page"; };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("iceprobe-theme", root.dataset.theme);
    } catch { /* then it isn't remembered */ }
    say();
  });
  dark.addEventListener("change", say);
  say();
  document.querySelector(".brand").append(theme);

  // A list of the sections, and a link beside whatever has an address.
  const sections = document.querySelectorAll("main section[id] > h2");
  const list = document.createElement("ul");
  for (const heading of sections) {
    const item = document.createElement("li");
    item.append(linked(heading.parentElement.id, heading.textContent.trim()));
    list.append(item);
  }
  const nav = document.createElement("nav");
  nav.setAttribute("aria-label", "Sections of this page");
  nav.className = "wide";
  nav.append(list);
  document.querySelector(".band").after(nav);

  function linked(id, text) {
    const link = document.createElement("a");
    link.href = `#${id}`;
    link.textContent = text;
    return link;
  }

  function permalink(id, of) {
    const link = linked(id, "#");
    link.className = "permalink";
    link.setAttribute("aria-label", `Link to ${of}`);
    return link;
  }

  for (const heading of sections) {
    heading.append(" ", permalink(heading.parentElement.id, heading.textContent.trim()));
  }
  for (const fold of document.querySelectorAll("details[id]")) {
    const name = fold.querySelector("summary").firstChild.textContent.trim();
    fold.querySelector("summary").after(permalink(fold.id, name));
  }

  // A link to what is folded unfolds it.
  const show = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let one = target; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", show);
  if (location.hash) show();

  // For the scripts below: a row of tools above what they are for.
  window.iceprobe = {
    permalink,
    reach,
    tool(text, label, act) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.setAttribute("aria-label", label);
      button.addEventListener("click", () => act(button));
      return button;
    },
    tools(...parts) {
      const row = document.createElement("div");
      row.className = "tools";
      row.append(...parts);
      return row;
    },
  };
})();
