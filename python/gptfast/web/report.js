// The report: charts that can be read, samples to scrub through, the model on request.

import { readable } from "./charts.js";

for (const figure of document.querySelectorAll(".chart")) {
  readable(figure);
}

// A printed page shows what is folded away on a screen.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details[data-prints]:not([open])")) {
    details.open = true;
    details.dataset.closes = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-closes]")) {
    details.open = false;
    delete details.dataset.closes;
  }
});

const moment = document.getElementById("moment");
if (moment) {
  const samples = document.querySelectorAll(".every > li");
  const show = () => {
    const [about, text] = samples[moment.valueAsNumber].children;
    moment.setAttribute("aria-valuetext", about.textContent);
    document.getElementById("moment-about").textContent = about.textContent;
    document.getElementById("moment-text").textContent = text.textContent;
  };
  moment.addEventListener("input", show);
  moment.closest(".scrubber").hidden = false;
  show();
}

const start = document.getElementById("start");
if (start) {
  const frame = document.getElementById("frame");
  const fit = () => {
    frame.style.height = `${frame.contentDocument.documentElement.offsetHeight + 4}px`;
  };
  start.addEventListener("click", () => {
    frame.addEventListener("load", () => {
      new ResizeObserver(fit).observe(frame.contentDocument.body);
    });
    frame.srcdoc = JSON.parse(document.getElementById("playground-page").textContent);
    frame.hidden = false;
    start.disabled = true;
    frame.focus();
  });
}
