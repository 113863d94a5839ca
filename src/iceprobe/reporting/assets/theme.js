// Light or dark as the reader last chose, before anything is drawn; else as the system has it.
(() => {
  "use strict";
  try {
    const chosen = localStorage.getItem("iceprobe-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch { /* a browser that keeps nothing for files */ }
})();
