// One socket a page: it comes back by itself, and says so. What is sent and what is read again is the chat's affair.

const FIRST_DELAY = 250; // ms
const MAX_DELAY = 15_000;
// While something is expected: then the server says something every 5 s. A connection that died in silence looks open
// for ever.
const SILENCE = 20_000;
const SLEPT = 30_000;
const REVOKED = 4401;

export class Socket {
  #socket = null;
  #failures = 0;
  #timer = 0;
  #heard = 0;

  /** `onOpen()`, `onEvent(event)`, `onClose(failures)` are called, and `onShutOut()` before the page goes to the log-in;
   * `expects()` says whether silence is suspicious, `member` whose page this is: another may be logged in by now. */
  constructor(on) {
    this.on = on;
    addEventListener("online", () => this.retry());
    addEventListener("pageshow", (event) => event.persisted && this.restart());
    addEventListener("pagehide", () => this.#socket?.close());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.retry());
    let ticked = Date.now();
    setInterval(() => {
      const now = Date.now();
      const slept = now - ticked > SLEPT;
      ticked = now;
      if (slept || (this.isOpen && this.on.expects() && now - this.#heard > SILENCE)) this.restart();
    }, 5_000);
    this.connect();
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Send a command; return whether there was a connection to send it on. */
  send(command) {
    if (!this.isOpen) return false;
    this.#socket.send(JSON.stringify(command));
    return true;
  }

  connect() {
    clearTimeout(this.#timer);
    const address = new URL(`/ws/?member=${this.on.member}`, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(address));
    socket.addEventListener("open", () => {
      if (socket !== this.#socket) return;
      this.#failures = 0;
      this.#heard = Date.now();
      this.on.onOpen();
    });
    socket.addEventListener("message", (message) => {
      if (socket !== this.#socket) return;
      this.#heard = Date.now();
      this.on.onEvent(JSON.parse(message.data));
    });
    socket.addEventListener("close", (event) => {
      if (socket !== this.#socket) return;
      if (event.code === REVOKED) {
        this.on.onShutOut();
        // Who is logged in anew by now, as after a new password, comes back here.
        location.assign(`/accounts/login/?next=${encodeURIComponent(location.pathname)}`);
        return;
      }
      this.#lost();
    });
  }

  /** Come back now instead of at the end of the delay. */
  retry() {
    if (!this.#socket || this.#socket.readyState === WebSocket.CLOSED) this.connect();
  }

  /** Give up the connection there is, whatever it looks like. */
  restart() {
    const old = this.#socket;
    this.#socket = null;
    old?.close();
    this.connect();
  }

  #lost() {
    this.#failures += 1;
    const maxDelay = Math.min(MAX_DELAY, FIRST_DELAY * 2 ** this.#failures);
    this.#timer = setTimeout(() => this.connect(), maxDelay * (0.5 + Math.random() / 2)); // not all at once after a deploy
    this.on.onClose(this.#failures);
  }
}
