// Tables as LaTeX, Markdown and CSV: as they are shown, in the order they are shown.
(() => {
  "use strict";
  const { permalink, tool, tools } = window.iceprobe;

  // The words of a cell: pictures and drawings have none; what is grey, or a tag, is in brackets.
  function words(cell) {
    const copy = cell.cloneNode(true);
    for (const none of copy.querySelectorAll("svg, img, .unseen, .permalink")) none.remove();
    for (const line of copy.querySelectorAll("br")) line.replaceWith(" ");
    const plain = (node) => node.textContent.replace(/\s+/g, " ").trim();
    const aside = Array.from(copy.querySelectorAll(".soft, .tag"))
      .filter((one) => !one.parentElement.closest(".soft, .tag"));
    const said = [];
    for (const one of aside) {
      said.push(plain(one));
      one.replaceWith(" ");
    }
    const main = plain(copy);
    const beside = said.filter(Boolean);
    if (!main) return beside.join(", ");
    return [main, ...beside.map((one) => `(${one.replace(/^\((.*)\)$/, "$1")})`)].join(" ");
  }

  // Headings and rows; a column of pictures alone is left out.
  function read(table) {
    const heads = Array.from(table.tHead.rows[0].cells);
    const rows = Array.from(table.tBodies[0].rows).map((row) => Array.from(row.cells));
    const cells = rows.map((row) => row.map(words));
    const kept = heads.map((head, i) => i)
      .filter((i) => words(heads[i]) || cells.some((row) => row[i]));
    const pick = (row) => kept.map((i) => row[i] ?? "");
    return {
      caption: table.caption?.textContent.replace(/\s+/g, " ").trim() ?? "",
      headings: pick(heads.map(words)),
      right: pick(heads.map((head) => head.classList.contains("n"))),
      rows: cells.map(pick),
    };
  }

  // As iceprobe.core.text.csv_text: no cell is a formula for a spreadsheet.
  function csv({ headings, rows }) {
    const formula = /^'*[=+\-@\t\r\n＝＋－＠]/;
    const number = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;
    const cell = (text) => {
      const plain = text.replace(/\u2212/g, "-"); // a minus that is read as one
      const safe = formula.test(plain) && !number.test(plain) ? `'${plain}` : plain;
      return /[",\r\n]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
    };
    return [headings, ...rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
  }

  function markdown({ headings, right, rows }) {
    const line = (cells) => `| ${cells.join(" | ")} |\n`;
    const cell = (text) => text.replace(/[\\|`*_[\]<>]/g, "\\$&");
    return line(headings.map(cell)) + line(right.map((one) => (one ? "---:" : "---")))
      + rows.map((row) => line(row.map(cell))).join("");
  }

  const TEX = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "_": "\\_",
    "%": "\\%", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
    ">": "\\textgreater{}", "|": "\\textbar{}", "\"": "\\textquotedbl{}", "`": "\\textasciigrave{}",
    "–": "--", "—": "---", "…": "\\dots{}", "’": "'", "“": "``", "”": "''",
    "\u00a0": "~", "\u2009": "\\,", "\u202f": "\\,", "\u200b": "",
  };
  // Signs of mathematics: letter by letter, and what each is called there.
  const SIGNS = [
    ["\u2212±×·≈≠≤≥∞∈√∂∑†‡→←↔✓✗★", "- pm times cdot approx neq leq geq infty in surd partial sum dagger ddagger "
      + "rightarrow leftarrow leftrightarrow surd times star"],
    ["αβγδεζηθικλμνξπρστυφχψω", "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho "
      + "sigma tau upsilon varphi chi psi omega"],
    ["ΓΔΘΛΞΠΣΥΦΨΩ", "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"],
    ["⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "^0 ^1 ^2 ^3 ^4 ^5 ^6 ^7 ^8 ^9 ^+ ^- ^n"],
    ["₀₁₂₃₄₅₆₇₈₉₊₋ᵢⱼₙᵥ", "_0 _1 _2 _3 _4 _5 _6 _7 _8 _9 _+ _- _i _j _n _v"],
  ];
  for (const [letters, names] of SIGNS) {
    names.split(" ").forEach((name, i) => {
      TEX[letters[i]] = /^[a-z]/i.test(name) ? `$\\${name}$` : `$${name}$`;
    });
  }
  // Two of these side by side would become one sign: "--" a dash.
  const tex = (text) => text.normalize("NFC")
    .replace(/([-',])(?=\1)|[\s\S]/gu, (letter, twin) => (twin ? `${twin}{}` : TEX[letter] ?? letter));

  function latex({ caption, headings, right, rows }) {
    // A row that begins with a bracket or a star would be read as an option of the line break before it.
    const line = (cells) => `${cells.map(tex).join(" & ").replace(/^[[*]/, "{$&}")} \\\\\n`;
    return `% ${caption}. Needs \\usepackage{booktabs} and, for quotation marks, \\usepackage[T1]{fontenc}.\n`
      + `\\begin{tabular}{${right.map((one) => (one ? "r" : "l")).join("")}}\n\\toprule\n`
      + `${line(headings)}\\midrule\n${rows.map(line).join("")}\\bottomrule\n\\end{tabular}\n`;
  }

  const formats = { LaTeX: latex, Markdown: markdown, CSV: csv };
  const status = document.createElement("p");
  status.className = "unseen";
  status.setAttribute("role", "status");
  document.querySelector("main").append(status);

  // By the clipboard's interface, else by a selection, else as a text to be copied by hand.
  async function copy(text, button) {
    let done = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      area.readOnly = true;
      area.className = "byhand";
      area.setAttribute("aria-label", "The text to copy");
      button.parentElement.after(area);
      area.select();
      done = document.execCommand("copy");
      if (done) {
        area.remove();
        button.focus();
      } else {
        area.addEventListener("blur", () => area.remove());
      }
    }
    status.textContent = done ? `${button.textContent} copied` : "Copy the text that is selected";
    if (done) {
      button.classList.add("done");
      setTimeout(() => button.classList.remove("done"), 1600);
    }
  }

  function equip(table) {
    const { caption } = read(table);
    const made = Object.entries(formats).map(([name, format]) => (
      tool(name, `Copy as ${name}: ${caption}`, (button) => copy(format(read(table)), button))
    ));
    const word = document.createElement("span");
    word.textContent = "Copy";
    word.setAttribute("aria-hidden", "true");
    const link = table.id ? [permalink(table.id, caption)] : [];
    const scroll = table.closest(".scroll") ?? table;
    scroll.before(tools(word, ...made, ...link));
  }

  for (const table of document.querySelectorAll("table:not(.gallery)")) equip(table);
  Object.assign(window.iceprobe, { equip, read, formats });
})();
