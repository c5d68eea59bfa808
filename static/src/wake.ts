// What wakes a connection: the network, and the tab.

/** Calls `online` and `check` of the current reconnector, until the signal aborts. */
export function watchBrowser(
  current: () => { online(): void; check(away?: boolean): void },
  { signal }: AbortController,
): void {
  const { document } = globalThis;
  const listen = (target: EventTarget | undefined, type: string, listener: () => void) =>
    target?.addEventListener?.(type, listener, { signal });
  listen(globalThis as unknown as EventTarget, 'online', () => current().online());
  listen(document, 'resume', () => current().check(true));
  listen(document, 'visibilitychange', () => document.hidden || current().check());
}
