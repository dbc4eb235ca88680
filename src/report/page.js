// Values under the pointer: the nearest point of every curve of the chart. Without this script the legend keeps the last values.
"use strict";
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const chart = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const where = figure.querySelector(".where");
  const values = [...figure.querySelectorAll(".legend b")];
  const last = values.map((value) => value.textContent);
  const [low, high] = chart.x;

  const nearest = (xs, x) => {
    let best = 0;
    for (let i = 1; i < xs.length; i++) {
      if (Math.abs(xs[i] - x) < Math.abs(xs[best] - x)) best = i;
    }
    return best;
  };

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const part = ((event.clientX - box.left) / box.width * chart.width - chart.left) / (chart.right - chart.left);
    const pointed = low + Math.min(Math.max(part, 0), 1) * (high - low);
    const curves = chart.series.map((curve) => ({ curve, i: nearest(curve.x, pointed) }));
    const distance = ({ curve, i }) => Math.abs(curve.x[i] - pointed);
    const x = curves.reduce((best, next) => (distance(next) < distance(best) ? next : best));
    const at = x.curve.x[x.i];
    curves.forEach(({ curve, i }, k) => {
      values[k].textContent = Math.abs(curve.x[i] - at) <= (high - low) / 50 ? curve.y[i] : "\u2013";
    });
    where.textContent = `at ${chart.label} ${at}`;
    const place = chart.left + (at - low) / (high - low) * (chart.right - chart.left);
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    cursor.style.visibility = "visible";
  });
  svg.addEventListener("pointerleave", () => {
    values.forEach((value, k) => { value.textContent = last[k]; });
    where.textContent = "";
    cursor.style.visibility = "hidden";
  });
}
