// Read values off a chart: at the pointer, or step by step with the arrow keys.

const SVG = "http://www.w3.org/2000/svg";

export function readable(figure) {
  const { x: axis, digits, series } = JSON.parse(figure.querySelector("script").textContent);
  const canvas = figure.querySelector(".canvas");
  const cursor = figure.querySelector(".cursor");
  const values = figure.querySelector(".values");
  const stops = [...new Map(series.flatMap((one) => one.points.map(([x, , at]) => [x, at])))];
  stops.sort((a, b) => a[0] - b[0]);
  const number = new Intl.NumberFormat("en", { minimumFractionDigits: digits > 4 ? 0 : digits, maximumFractionDigits: digits });
  let chosen = -1;

  canvas.setAttribute("aria-valuemax", stops.length - 1);

  function element(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) {
      made.setAttribute(key, value);
    }
    return made;
  }

  function choose(i) {
    chosen = Math.max(0, Math.min(stops.length - 1, i));
    const [x, at] = stops[chosen];
    const place = `${100 * at}%`;
    const marks = [element("line", { x1: place, x2: place, y1: 0, y2: "100%" })];
    const lines = [`${axis} ${x.toLocaleString("en")}`];
    for (const one of series) {
      if (one.points.length === 0) {
        continue;
      }
      const point = one.points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
      const when = point[0] === x ? "" : ` (${axis} ${point[0].toLocaleString("en")})`;
      marks.push(element("circle", { class: `dot ${one.kind}`, cx: `${100 * point[2]}%`, cy: `${100 * point[3]}%`, r: 4.5 }));
      lines.push(`${one.name}${when}  ${number.format(point[1])}`);
    }
    cursor.replaceChildren(...marks);
    cursor.removeAttribute("hidden");
    values.textContent = lines.join("\n");
    values.hidden = false;
    canvas.setAttribute("aria-valuenow", chosen);
    canvas.setAttribute("aria-valuetext", lines.join(", "));
    // Beside the line, on the side that has more room.
    const left = canvas.getBoundingClientRect().left - canvas.parentElement.getBoundingClientRect().left;
    const middle = left + at * canvas.clientWidth;
    values.style.left = at < 0.5 ? `${middle + 12}px` : "auto";
    values.style.right = at < 0.5 ? "auto" : `${canvas.parentElement.clientWidth - middle + 12}px`;
  }

  function leave() {
    cursor.setAttribute("hidden", "");
    values.hidden = true;
  }

  function nearest(event) {
    const box = canvas.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    let best = 0;
    for (let i = 1; i < stops.length; i++) {
      if (Math.abs(stops[i][1] - share) < Math.abs(stops[best][1] - share)) {
        best = i;
      }
    }
    return best;
  }

  canvas.addEventListener("pointermove", (event) => choose(nearest(event)));
  canvas.addEventListener("pointerdown", (event) => choose(nearest(event)));
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && choose(chosen < 0 ? 0 : chosen));
  canvas.addEventListener("blur", leave);
  canvas.addEventListener("keydown", (event) => {
    const far = Math.max(1, Math.round(stops.length / 10));
    const to = {
      ArrowRight: chosen + 1, ArrowUp: chosen + 1, ArrowLeft: chosen - 1, ArrowDown: chosen - 1,
      PageUp: chosen + far, PageDown: chosen - far, Home: 0, End: stops.length - 1,
    }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      choose(to);
    } else if (event.key === "Escape") {
      leave();
    }
  });
}
