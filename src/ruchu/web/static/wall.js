// The clock of the wall, in the zone of the server, and its full screen.
"use strict";
window.ruchuWall = {
  full() {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen().catch(() => {});
  },
  tick() {
    const clock = document.querySelector(".w-clock");
    if (!clock) return;
    const { zone, lang } = clock.dataset;
    const shape = { timeZone: zone, weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false };
    const text = new Intl.DateTimeFormat(lang === "zh" ? "zh-CN" : "en-GB", shape).format(new Date());
    if (clock.textContent !== text) clock.textContent = text;
  },
};
// More often than it changes: the clock is there as soon as the page is.
setInterval(window.ruchuWall.tick, 250);
