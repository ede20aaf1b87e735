"""Entered with a picture of your own: predictions, the page in the browser, the network as a file for others."""
