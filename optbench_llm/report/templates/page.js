"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NARROW = 560;
  const RELOAD_MS = 30000;

  // What the reader has chosen; a live page finds it again after it has loaded itself anew.
  const KEY = `optbench:${location.pathname}`;
  const kept = window.optbenchLive ? JSON.parse(sessionStorage.getItem(KEY) ?? "{}") : {};
  function keep(name, value) {
    kept[name] = value;
    if (window.optbenchLive) sessionStorage.setItem(KEY, JSON.stringify(kept));
  }

  // ---- Plots

  const shown = new Map();  // figure's id -> which plot, how wide, and a promise of its view

  function config() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    return {
      background: "transparent",
      font: "system-ui, sans-serif",
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

  // Room for a plot before it is drawn: else all would be in sight at once, and drawn.
  function height(figure) {
    const { plots, data: datasets } = data[figure.id];
    const spec = fitted(plots[0], figure.querySelector(".plot").clientWidth);
    if (!spec.columns) return spec.height;
    const panels = new Set(datasets[spec.data.name].map((record) => record.label)).size;
    return Math.ceil(panels / spec.columns) * (spec.spec.height + 55);
  }

  function draw(figure) {
    const { plots, data: datasets, chosen } = data[figure.id];
    const box = figure.querySelector(".plot");
    const place = Math.min(kept[figure.id] ?? 0, plots.length - 1);
    const width = box.clientWidth;
    const before = shown.get(figure.id)?.view ?? Promise.resolve(null);
    const view = before.then(async (old) => {
      old?.finalize();
      const spec = { ...fitted(plots[place], width), datasets };
      const drawn = await vegaEmbed(box, spec, {
        actions: false, config: config(), tooltip: { theme: "custom" }, renderer: "svg",
      });
      // To a screen reader a plot is an image with a name: the table has its numbers.
      for (const part of box.children) part.setAttribute("aria-hidden", "true");
      box.style.minHeight = "";
      if (chosen.length) colour(figure, drawn.view);
      return drawn.view;
    });
    shown.set(figure.id, { width, view });
    return view;
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
    figure.querySelector(".plot").style.minHeight = `${height(figure)}px`;
    near.observe(figure);
    const buttons = [...figure.querySelectorAll("[data-plot]")];
    const press = () => {
      for (const [place, button] of buttons.entries()) {
        button.setAttribute("aria-pressed", String(place === (kept[figure.id] ?? 0)));
      }
    };
    press();
    for (const [place, button] of buttons.entries()) {
      button.onclick = () => {
        keep(figure.id, place);
        press();
        draw(figure);
      };
    }
    figure.querySelector("[data-save]").onclick = async () => {
      const view = await (shown.get(figure.id)?.view ?? draw(figure));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([await view.toSVG()], { type: "image/svg+xml" }));
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

  // ---- The ticks of a board's table are the coloured lines of its loss curves

  const boards = [...document.querySelectorAll("section.board")];
  const curvesOf = (board) => board.querySelector("[id$=-loss-curves]");
  const chosenOf = (board) => kept[`${board.id}-chosen`] ?? data[curvesOf(board).id].chosen;
  const labelOf = (box) => box.closest("tr").dataset.label;

  function colour(figure, view) {
    const chosen = chosenOf(figure.closest(".board"));
    view.signal("chosen", chosen).runAsync();
    nameLines(figure, chosen);
  }

  for (const board of boards) {
    if (!curvesOf(board)) continue;
    const boxes = [...board.querySelectorAll("[data-chosen]")];
    for (const box of boxes) {
      box.checked = chosenOf(board).includes(labelOf(box));
      box.onchange = async () => {
        keep(`${board.id}-chosen`, boxes.filter((each) => each.checked).map(labelOf));
        const figure = curvesOf(board);
        const view = await shown.get(figure.id)?.view;
        if (view) colour(figure, view);
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
      item.innerHTML = `<svg width="26" height="8" aria-hidden="true"><path d="M0 4h26" `
        + `stroke="${lines[place % lines.length]}" stroke-width="2.5" stroke-dasharray="${dash}"/></svg>`;
      item.append(label);
      return [last.get(label) ?? Infinity, item];
    });
    items.sort((one, two) => one[0] - two[0]);
    figure.querySelector(".key").replaceChildren(...items.map((pair) => pair[1]));
  }

  // ---- Tables

  for (const table of document.querySelectorAll("[data-table]")) {
    const id = table.closest(".board").id;
    const body = table.querySelector("tbody");
    const rows = [...body.rows];
    const heads = [...table.querySelectorAll("th[data-key]")];
    const value = (row, at) => {
      const cell = row.cells[at];
      return "n" in cell.dataset ? Number(cell.dataset.n) : cell.textContent.trim();
    };
    const missing = (found) => found === "–" || found === "";
    const sort = (key, down) => {
      const head = heads.find((one) => one.dataset.key === key);
      if (!head) return;
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
      head.querySelector("button").onclick = () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        keep(`${id}-sort`, [head.dataset.key, down]);
        sort(head.dataset.key, down);
      };
    }

    const fields = [...table.querySelectorAll("[data-search], [data-filter]")];
    const count = table.querySelector("[data-count]");
    const filter = () => {
      let left = 0;
      for (const row of rows) {
        const fits = fields.every((field) => !field.value || (
          "search" in field.dataset
            ? row.dataset.label.toLowerCase().includes(field.value.trim().toLowerCase())
            : row.dataset[field.dataset.filter] === field.value));
        row.hidden = !fits;
        left += fits;
      }
      count.textContent = left === rows.length ? `${left} rows` : `${left} of ${rows.length} rows`;
    };
    for (const [place, field] of fields.entries()) {
      field.value = kept[`${id}-filters`]?.[place] ?? "";
      field.oninput = () => {
        keep(`${id}-filters`, fields.map((one) => one.value));
        filter();
      };
    }
    table.querySelector("form").onsubmit = (event) => event.preventDefault();

    const columns = [...table.querySelectorAll("[data-column]")];
    const show = (box) => {
      const head = heads.find((one) => one.dataset.key === box.dataset.column);
      for (const row of [head.parentElement, ...rows]) row.cells[head.cellIndex].hidden = !box.checked;
    };
    for (const box of columns) {
      const here = kept[`${id}-columns`]?.[box.dataset.column];
      if (here !== undefined) {
        box.checked = here;
        show(box);
      }
      box.onchange = () => {
        keep(`${id}-columns`, { ...kept[`${id}-columns`], [box.dataset.column]: box.checked });
        show(box);
      };
    }

    if (kept[`${id}-sort`]) sort(...kept[`${id}-sort`]);
    filter();
  }

  // ---- Age

  for (const time of document.querySelectorAll("time[datetime]")) {
    const minutes = Math.round((Date.now() - Date.parse(time.dateTime)) / 60000);
    if (minutes < 1) continue;
    const [ago, unit] = minutes < 120 ? [minutes, "minutes"]
      : minutes < 2880 ? [Math.round(minutes / 60), "hours"] : [Math.round(minutes / 1440), "days"];
    time.textContent += ` (${ago} ${unit} ago)`;
  }
  if (window.optbenchLive) setTimeout(() => location.reload(), RELOAD_MS);
})();
