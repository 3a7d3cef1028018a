// Puts the number of films onto the cart link. It comes from a cookie, so that cached pages are the same for all.
const items = document.cookie.match(/(?:^|; )cart_items=(\d+)/);
const badge = document.getElementById("badge");
if (items && items[1] !== "0") {
  badge.textContent = items[1];
  badge.hidden = false;
}
