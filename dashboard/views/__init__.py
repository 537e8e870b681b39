"""One module per page; each is a `render` function that takes the store and draws."""
