"use strict";

// The same short form as number() in charts.py.
function formatNumber(value) {
  const magnitude = Math.abs(value);
  if (value === 0) return "0";
  let text;
  if (magnitude < 1e-3 || magnitude >= 1e6) {
    const [mantissa, exponent] = value.toExponential(2).split("e");
    const digits = "⁰¹²³⁴⁵⁶⁷⁸⁹";
    const power = [...String(Number(exponent))].map((c) => (c === "-" ? "⁻" : digits[c])).join("");
    const short = String(Number(mantissa));
    text = short === "1" ? "10" + power : short + "×10" + power;
  } else {
    const decimals = Math.max(0, 3 - Math.floor(Math.log10(magnitude)));
    text = value.toLocaleString("en-US", { maximumFractionDigits: decimals });
  }
  return text.replace(/^-/, "−");
}

function nearestIndex(sorted, value) {
  let low = 0;
  let high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle;
    else high = middle;
  }
  return value - sorted[low] < sorted[high] - value ? low : high;
}

function setUpChart(chart) {
  const data = JSON.parse(chart.dataset.chart);
  const plots = [...chart.querySelectorAll("[data-plot]")];
  const entries = [...chart.querySelectorAll(".legend li")];
  const outputs = entries.map((entry) => entry.querySelector("output"));
  const atRest = outputs.map((output) => output.textContent);
  const position = chart.querySelector("[data-x]");
  const button = chart.querySelector("[data-switch]");
  if (button) {
    button.addEventListener("click", () => {
      plots.forEach((plot) => { plot.hidden = !plot.hidden; });
      button.setAttribute("aria-pressed", String(plots[0].hidden));
    });
  }
  plots.forEach((plot, which) => {
    const [bottom, top, logarithmic] = data.y[which];
    const height = (value) =>
      logarithmic ? Math.log(value / bottom) / Math.log(top / bottom) : (value - bottom) / (top - bottom);
    const rule = document.createElement("div");
    rule.className = "rule";
    rule.hidden = true;
    const dots = data.series.map((_, index) => {
      const dot = document.createElement("div");
      dot.className = "dot s" + (index % 8);
      dot.hidden = true;
      return dot;
    });
    plot.append(rule, ...dots);
    const show = (event) => {
      const box = plot.getBoundingClientRect();
      const fraction = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      const wanted = data.x[0] + fraction * (data.x[1] - data.x[0]);
      let nearest = null;
      data.series.forEach(([x, y], index) => {
        const at = nearestIndex(x, wanted);
        outputs[index].textContent = formatNumber(y[at]);
        dots[index].style.left = (100 * (x[at] - data.x[0])) / (data.x[1] - data.x[0]) + "%";
        dots[index].style.bottom = 100 * height(y[at]) + "%";
        dots[index].hidden = false;
        if (nearest === null || Math.abs(x[at] - wanted) < Math.abs(nearest - wanted)) nearest = x[at];
      });
      rule.style.left = (100 * (nearest - data.x[0])) / (data.x[1] - data.x[0]) + "%";
      rule.hidden = false;
      position.textContent = "at " + formatNumber(nearest) + " " + data.unit;
    };
    plot.addEventListener("pointermove", show);
    plot.addEventListener("pointerdown", show);
    plot.addEventListener("pointerleave", () => {
      rule.hidden = true;
      dots.forEach((dot) => { dot.hidden = true; });
      outputs.forEach((output, index) => { output.textContent = atRest[index]; });
      position.textContent = data.unit;
    });
  });
  const highlight = (index) => {
    chart.querySelectorAll("path[data-series]").forEach((path) => {
      path.classList.toggle("dim", index !== null && path.dataset.series !== index);
    });
  };
  if (entries.length > 1) {
    entries.forEach((entry) => {
      entry.addEventListener("pointerenter", () => highlight(entry.dataset.series));
      entry.addEventListener("pointerleave", () => highlight(null));
    });
  }
}

function setUpFilm(film) {
  const frames = [...film.querySelectorAll("img")];
  const slider = film.querySelector("input");
  const play = film.querySelector("[data-play]");
  const label = film.querySelector("output");
  if (!slider) return null;
  let timer = null;
  const show = (index) => {
    const bounded = Math.min(frames.length - 1, Math.max(0, index));
    frames.forEach((frame, other) => frame.classList.toggle("on", other === bounded));
    slider.value = bounded;
    slider.setAttribute("aria-valuetext", frames[bounded].dataset.label);
    label.textContent = frames[bounded].dataset.label;
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.classList.remove("playing");
    play.setAttribute("aria-label", "Play");
  };
  const start = () => {
    if (Number(slider.value) === frames.length - 1) show(0);
    play.classList.add("playing");
    play.setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      show(Number(slider.value) + 1);
      if (Number(slider.value) === frames.length - 1) stop();
    }, 350);
  };
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  play.addEventListener("click", () => (timer === null ? start() : stop()));
  return (change) => { stop(); show(Number(slider.value) + change); };
}

document.querySelectorAll("[data-chart]").forEach(setUpChart);

const moves = [...document.querySelectorAll("[data-film]")].map(setUpFilm).filter(Boolean);
document.addEventListener("keydown", (event) => {
  const change = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const busy = event.altKey || event.ctrlKey || event.metaKey || event.target.matches("input, textarea, select");
  if (!change || busy || !moves.length) return;
  event.preventDefault();
  moves.forEach((move) => move(change));
});

if (navigator.clipboard) {
  document.querySelectorAll("[data-copy]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => {
      navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent).then(() => {
        button.textContent = "copied";
        setTimeout(() => { button.textContent = "copy"; }, 1500);
      });
    });
  });
}
