"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NARROW = 560;
  const shown = new Map();  // figure's id -> its view, and which plot of it

  function config() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const font = "system-ui, sans-serif";
    return {
      background: "transparent",
      font,
      view: { stroke: null },
      axis: {
        labelColor: colour("--ink"), titleColor: colour("--soft"), titleFontWeight: "normal",
        gridColor: colour("--line"), domainColor: colour("--line"), tickColor: colour("--line"),
      },
      legend: { labelColor: colour("--ink"), titleColor: colour("--soft") },
      header: { labelColor: colour("--ink"), labelFontWeight: "bold" },
      text: { color: colour("--ink") },
    };
  }

  function fitted(plot, width) {
    const spec = structuredClone(width < NARROW && plot.narrow ? plot.narrow : plot.spec);
    if (spec.columns) {
      const panel = width < NARROW ? 150 : 200;
      spec.columns = Math.max(1, Math.floor((width - 50) / panel));
      spec.spec.width = Math.floor((width - 50) / spec.columns) - 32;
    }
    return spec;
  }

  async function draw(figure, place) {
    const { plots, data: datasets } = data[figure.id];
    const at = place ?? shown.get(figure.id)?.place ?? 0;
    const box = figure.querySelector(".plot");
    const spec = { ...fitted(plots[at], box.clientWidth), datasets };
    shown.get(figure.id)?.view?.finalize();
    shown.set(figure.id, { place: at, view: null, width: box.clientWidth });
    const result = await vegaEmbed(box, spec, {
      actions: false, config: config(), tooltip: { theme: "custom" }, renderer: "svg",
    });
    // To a screen reader a plot is an image with a name: the table has its numbers.
    for (const part of box.children) part.setAttribute("aria-hidden", "true");
    shown.set(figure.id, { place: at, view: result.view, width: box.clientWidth });
    tick(figure, result.view);
  }

  // The ticks of a board's table and the coloured lines of its loss curves are one choice.
  function tick(figure, view) {
    if (!figure.id.endsWith("-loss-curves")) return;
    const boxes = [...figure.closest(".board").querySelectorAll("[data-chosen]")];
    const labelOf = (box) => box.closest("tr").dataset.label;
    const board = figure.closest(".board");
    if (board.dataset.chosen) view.signal("chosen", JSON.parse(board.dataset.chosen)).runAsync();
    const chosen = view.signal("chosen");
    nameLines(figure, chosen);
    for (const box of boxes) {
      box.checked = chosen.includes(labelOf(box));
      box.onchange = () => {
        const labels = boxes.filter((each) => each.checked).map(labelOf);
        board.dataset.chosen = JSON.stringify(labels);
        shown.get(figure.id).view.signal("chosen", labels).runAsync();
        nameLines(figure, labels);
      };
    }
  }

  // Names of the lines, the lowest last loss first, in the colours and dashes of the plot.
  function nameLines(figure, chosen) {
    const { lines, dashes } = data.lines;
    const last = new Map(data[figure.id].data.curves.map((point) => [point.label, point.loss]));
    const items = chosen.map((label, place) => {
      const item = document.createElement("li");
      const dash = dashes[Math.floor(place / lines.length) % dashes.length].join(" ");
      item.innerHTML = `<svg width="26" height="8"><path d="M0 4h26" stroke="${lines[place % lines.length]}"`
        + ` stroke-width="2.5" stroke-dasharray="${dash}"/></svg>`;
      item.append(label);
      return [last.get(label) ?? Infinity, item];
    });
    items.sort((one, two) => one[0] - two[0]);
    figure.querySelector(".key").replaceChildren(...items.map((pair) => pair[1]));
  }

  const figures = [...document.querySelectorAll("figure.plots")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "600px" });
  for (const figure of figures) {
    near.observe(figure);
    for (const button of figure.querySelectorAll("[data-plot]")) {
      button.onclick = () => {
        for (const other of figure.querySelectorAll("[data-plot]")) {
          other.setAttribute("aria-pressed", String(other === button));
        }
        draw(figure, Number(button.dataset.plot));
      };
    }
  }
  for (const figure of figures) {
    figure.querySelector("[data-save]").onclick = async () => {
      const svg = await shown.get(figure.id).view.toSVG();
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
      link.download = `${figure.id}.svg`;
      link.click();
      URL.revokeObjectURL(link.href);
    };
  }
  const again = (changed) => {
    for (const figure of figures) {
      const now = shown.get(figure.id);
      if (now && changed(figure, now)) draw(figure);
    }
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => again(() => true));
  let waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(
      () => again((figure, now) => figure.querySelector(".plot").clientWidth !== now.width), 200);
  });
  addEventListener("beforeprint", () => {
    for (const figure of figures) if (!shown.has(figure.id)) draw(figure);
  });

  for (const table of document.querySelectorAll("[data-table]")) {
    const body = table.querySelector("tbody");
    const rows = [...body.rows];
    const heads = [...table.querySelectorAll("th[data-key]")];
    const value = (row, at) => {
      const cell = row.cells[at];
      return "n" in cell.dataset ? Number(cell.dataset.n) : cell.textContent.trim();
    };
    const missing = (found) => found === "–" || found === "";
    const sort = (head, down) => {
      const at = head.cellIndex;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.sort((one, two) => {
        const [a, b] = [value(one, at), value(two, at)];
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
        const order = typeof a === "number" ? a - b : a.localeCompare(b);
        return down ? -order : order;
      });
      body.append(...rows);
    };
    for (const head of heads) {
      head.querySelector("button").onclick = () =>
        sort(head, head.getAttribute("aria-sort") === "ascending");
    }
    const search = table.querySelector("[data-search]");
    const filters = [...table.querySelectorAll("[data-filter]")];
    const count = table.querySelector("[data-count]");
    const filter = () => {
      const wanted = search.value.trim().toLowerCase();
      let left = 0;
      for (const row of rows) {
        const fits = row.dataset.label.toLowerCase().includes(wanted)
          && filters.every((one) => !one.value || row.dataset[one.dataset.filter] === one.value);
        row.hidden = !fits;
        left += fits;
      }
      count.textContent = left === rows.length ? `${left} rows` : `${left} of ${rows.length} rows`;
    };
    search.oninput = filter;
    for (const one of filters) one.onchange = filter;
    table.querySelector("form").onsubmit = (event) => event.preventDefault();
    for (const box of table.querySelectorAll("[data-column]")) {
      box.onchange = () => {
        const head = heads.find((one) => one.dataset.key === box.dataset.column);
        for (const row of [head.parentElement, ...rows]) row.cells[head.cellIndex].hidden = !box.checked;
      };
    }
    filter();
  }

  for (const time of document.querySelectorAll("time[datetime]")) {
    const minutes = Math.round((Date.now() - Date.parse(time.dateTime)) / 60000);
    if (minutes < 0) continue;
    const [ago, unit] = minutes < 120 ? [minutes, "minutes"]
      : minutes < 2880 ? [Math.round(minutes / 60), "hours"] : [Math.round(minutes / 1440), "days"];
    time.textContent += ` (${ago} ${unit} ago)`;
  }
  if (window.optbenchLive) setTimeout(() => location.reload(), 30000);
})();
