"""What is loaded into a rank's process: parks it at a mini-batch boundary, with no change to it."""
