export const address = (facility) => `${location.origin.replace('http', 'ws')}/ws/${facility}?subscribe-broadcast`;

/** Returns whether reconnecting cannot help: a rule refuses the visitor, or the session has ended. */
export const isFinal = (code) => code === 1008 || (code >= 4400 && code <= 4499);
