// A parser of text/event-stream (HTML standard, 9.2.6).

/** Returns a function to be called with each piece of text. A message has the kind ''. */
export function createEventParser(onEvent: (kind: string, data: string) => void): (piece: string) => void {
  let line = '';
  let halfBreak = '';
  let kind = '';
  let data: string[] = [];
  return (piece) => {
    piece = halfBreak + piece;
    halfBreak = piece.endsWith('\r') ? '\r' : '';
    const lines = piece.slice(0, piece.length - halfBreak.length).split(/\r\n|\r|\n/);
    lines[0] = line + lines[0];
    line = lines.pop()!;
    for (const whole of lines) {
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(whole)!;
      if (field === 'data') data.push(value!);
      else if (field === 'event') kind = value === 'message' ? '' : value!;
      if (whole) continue;
      if (data.length) onEvent(kind, data.join('\n'));
      kind = '';
      data = [];
    }
  };
}
