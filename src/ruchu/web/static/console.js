// The little that a browser does by itself: keep choices, make calls that set the cookie, downloads.
"use strict";
window.ruchu = {
  choose(cookie, value) {
    document.cookie = `${cookie}=${encodeURIComponent(value)}; path=/; max-age=31536000; samesite=lax`;
    location.reload();
  },
  async send(method, path, body) {
    const answer = await fetch(`/api/v1${path}`, {
      method,
      headers: { "content-type": "application/json", "x-ruchu-request": "1" },
      body: JSON.stringify(body),
    });
    const text = await answer.text();
    return { status: answer.status, body: text ? JSON.parse(text) : null };
  },
  async copy(text, name) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      getSelection().selectAllChildren(document.querySelector(`[data-test="${name}"]`));
      return false;
    }
  },
};
