// Curves and the doughnut, drawn by Chart.js. Colours come from the stylesheet and follow its scheme.
// Each canvas has a label that says its newest figures in words.

const charts = [];
let library = null;

/** Loads the library once the page stands; answers whether it is there. */
export async function loadCharts() {
  try {
    await import("./chart.js");
    library = globalThis.Chart;
    library.defaults.animation = false;
    library.defaults.font.family = getComputedStyle(document.body).fontFamily;
    library.defaults.font.size = 11;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(({ paint }) => paint()));
  } catch (error) {
    // Without it every figure is still there in text.
    console.error(error);
  }
  return library !== null;
}

const probe = document.createElement("span");

/** A colour of the stylesheet as the canvas understands it. */
export function colour(value) {
  if (!probe.isConnected) {
    probe.hidden = true;
    document.body.append(probe);
  }
  probe.style.color = value;
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = getComputedStyle(probe).color;
  context.fillRect(0, 0, 1, 1);
  const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
  return `rgb(${red} ${green} ${blue})`;
}

/**
 * Curves over time. `series` is a list of `{ colour, fill, stepped }`; `format(value)` writes a value.
 * Answers `draw(times, lists)`, or nothing where there is no library.
 */
export function curves(canvas, series, format) {
  if (!library) return null;
  const chart = new library.Chart(canvas, {
    type: "line",
    data: { labels: [], datasets: series.map(({ fill }) => ({ data: [], fill: fill ?? false, borderWidth: 1.75, pointRadius: 0, pointHitRadius: 8, tension: 0.25, spanGaps: 6000 })) },
    options: {
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: { type: "linear", grid: { display: false }, ticks: { maxTicksLimit: 5, maxRotation: 0, callback: (at) => ago(at) } },
        y: { beginAtZero: true, border: { display: false }, ticks: { maxTicksLimit: 4, precision: 0, callback: (value) => format(value) } },
      },
      plugins: {
        legend: { display: false },
        tooltip: { displayColors: series.length > 1, callbacks: { title: (items) => ago(items[0].parsed.x), label: (item) => `${series[item.datasetIndex].name} ${format(item.parsed.y)}` } },
      },
    },
  });
  const paint = () => {
    chart.data.datasets.forEach((dataset, index) => {
      const own = colour(series[index].colour);
      dataset.borderColor = own;
      dataset.pointHoverBackgroundColor = own;
      dataset.backgroundColor = own.replace(")", " / 0.12)");
    });
    for (const scale of Object.values(chart.options.scales)) {
      scale.ticks.color = colour("var(--muted)");
      scale.grid.color = colour("var(--line)");
    }
    chart.update("none");
  };
  const draw = (times, lists) => {
    const newest = times.at(-1) ?? 0;
    chart.options.scales.x.min = Math.min(times[0] ?? 0, newest - 60000) - newest;
    chart.options.scales.x.max = 0;
    lists.forEach((list, index) => {
      chart.data.datasets[index].data = list.map((value, at) => ({ x: times[at] - newest, y: value }));
    });
    chart.update("none");
  };
  charts.push({ paint });
  paint();
  return draw;
}

/** Bars side by side for each name. Answers `draw(names, lists)`, or nothing where there is no library. */
export function bars(canvas, series, format) {
  if (!library) return null;
  const chart = new library.Chart(canvas, {
    type: "bar",
    data: { labels: [], datasets: series.map((one) => ({ label: one.name, data: [], backgroundColor: colour(one.colour), maxBarThickness: 26, borderRadius: 3 })) },
    options: {
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: { ticks: {}, grid: { display: false } },
        y: { grid: {}, border: { display: false }, ticks: { maxTicksLimit: 4, callback: (value) => format(value) } },
      },
      plugins: { colors: { enabled: false }, legend: { display: false }, tooltip: { callbacks: { label: (item) => `${item.dataset.label} ${format(item.parsed.y)}` } } },
    },
  });
  const paint = () => {
    chart.data.datasets.forEach((dataset, index) => {
      dataset.backgroundColor = colour(series[index].colour);
    });
    for (const scale of Object.values(chart.options.scales)) {
      scale.ticks.color = colour("var(--muted)");
      scale.grid.color = colour("var(--line)");
    }
    chart.update("none");
  };
  charts.push({ paint });
  paint();
  return (names, lists) => {
    chart.data.labels = names;
    lists.forEach((list, index) => {
      chart.data.datasets[index].data = list;
    });
    chart.update("none");
  };
}

/** A small curve without axes. Answers `draw(values)`, which keeps the newest `length` in view. */
export function spark(canvas, length) {
  if (!library) return null;
  const chart = new library.Chart(canvas, {
    type: "line",
    data: { labels: Array.from({ length }, (_, at) => at), datasets: [{ data: [], borderWidth: 1.75, pointRadius: 0, tension: 0.25, spanGaps: true }] },
    options: {
      maintainAspectRatio: false,
      events: [],
      layout: { padding: 2 },
      scales: { x: { display: false }, y: { display: false, beginAtZero: true } },
      plugins: { legend: { display: false }, tooltip: { enabled: false } },
    },
  });
  const paint = () => {
    chart.data.datasets[0].borderColor = colour("var(--accent)");
    chart.update("none");
  };
  charts.push({ paint });
  paint();
  return (values) => {
    chart.data.datasets[0].data = [...Array.from({ length: Math.max(0, length - values.length) }, () => null), ...values];
    chart.update("none");
  };
}

const ago = (ms) => (ms >= -500 ? "now" : ms > -120000 ? `${Math.round(-ms / 1000)} s ago` : `${Math.round(-ms / 60000)} min ago`);

/** A doughnut. Answers `draw(parts)` with parts of `{ name, value, colour }`. */
export function doughnut(canvas, format) {
  if (!library) return null;
  const chart = new library.Chart(canvas, {
    type: "doughnut",
    data: { labels: [], datasets: [{ data: [], borderWidth: 2 }] },
    options: {
      cutout: "68%",
      maintainAspectRatio: false,
      plugins: { legend: { display: false }, tooltip: { callbacks: { label: (item) => format(item.parsed) } } },
    },
  });
  let shown = [];
  const paint = () => {
    const [dataset] = chart.data.datasets;
    chart.data.labels = shown.map((part) => part.name);
    dataset.data = shown.map((part) => part.value);
    dataset.backgroundColor = shown.map((part) => colour(part.colour));
    dataset.hoverBackgroundColor = dataset.backgroundColor;
    dataset.borderColor = colour("var(--surface)");
    dataset.hoverBorderColor = dataset.borderColor;
    chart.update("none");
  };
  charts.push({ paint });
  return (parts) => {
    const same = parts.length === shown.length && parts.every((part, at) => part.value === shown[at].value && part.name === shown[at].name);
    shown = parts;
    if (!same) paint();
  };
}
