// Marks tables of which a part is out of sight, so that the page can say so.
(() => {
  "use strict";
  const mark = () => {
    for (const place of document.querySelectorAll(".scroll")) {
      place.classList.remove("wide");
      place.classList.toggle("wide", place.scrollWidth > place.clientWidth + 1);
    }
  };
  addEventListener("resize", mark);
  addEventListener("load", mark);
  for (const part of document.querySelectorAll("details")) part.addEventListener("toggle", mark);
  mark();
})();
