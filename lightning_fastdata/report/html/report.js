(function () {
  "use strict";
  const chart = document.getElementById("wait-chart"), data = document.getElementById("columns");
  const readout = document.getElementById("readout"), cursor = document.getElementById("cursor");
  if (!chart || !data) { return; }
  const columns = JSON.parse(data.textContent);
  let at = -1;
  readout.hidden = false;
  function show(column) {
    at = Math.max(0, Math.min(columns.length - 1, column));
    readout.textContent = columns[at][1];
    cursor.hidden = false;
    cursor.style.left = (columns[at][0] * 100) + "%";
  }
  chart.addEventListener("pointermove", function (event) {
    const box = chart.getBoundingClientRect(), across = (event.clientX - box.left) / box.width;
    const distances = columns.map((one) => Math.abs(one[0] - across));
    show(distances.indexOf(Math.min(...distances)));
  });
  chart.addEventListener("pointerleave", function () { cursor.hidden = true; });
  chart.addEventListener("keydown", function (event) {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (step) {
      show(at + step);
      event.preventDefault();
    }
  });
}());
