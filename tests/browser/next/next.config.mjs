// A site of files, which any server can serve.
export default { output: 'export', turbopack: { root: import.meta.dirname } };
