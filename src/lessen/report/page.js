// Draws the figures of the page, and again when the reader changes between light and dark.
(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const palette = () => [1, 2, 3, 4, 5, 6, 7, 8].map((number) => style(`--series-${number}`));

  const coloured = (trace) => {
    const colours = palette();
    const turn = Math.floor(trace.meta.colour / colours.length);
    const colour = colours[trace.meta.colour % colours.length];
    const made = { ...trace, line: { ...trace.line, color: colour }, marker: { ...trace.marker, color: colour } };
    if (turn > 0 && !trace.meta.points) made.line.dash = "dash";
    if (trace.meta.points) {
      made.marker = { ...made.marker, opacity: 0.9, line: { color: style("--paper"), width: 1 } };
      for (const axis of ["error_x", "error_y"]) {
        if (made[axis]) made[axis] = { ...made[axis], color: colour, thickness: 1.25, width: 3 };
      }
    }
    return made;
  };

  const axis = (given) => ({
    automargin: true, minor: { ticks: "" }, gridcolor: style("--line"), zeroline: false, linecolor: style("--line"), ticks: "outside",
    tickcolor: style("--line"), ...given, title: { ...given.title, standoff: 10, font: { size: 12 } },
  });

  const draw = async (place) => {
    const figure = figures[place.dataset.figure];
    const layout = {
      autosize: true, margin: { l: 8, r: 16, t: 8, b: 8 }, hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style("--sans"), color: style("--ink-soft"), size: 12 },
      showlegend: false,
      hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--ink") } },
      ...figure.layout, xaxis: axis(figure.layout.xaxis), yaxis: axis(figure.layout.yaxis),
    };
    await Plotly.react(place, figure.data.map(coloured), layout, { responsive: true, displayModeBar: false });
    place.dataset.drawn = "yes";
  };

  const drawAll = () => Promise.all([...document.querySelectorAll("[data-figure]")].map(draw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
  drawAll();
})();
