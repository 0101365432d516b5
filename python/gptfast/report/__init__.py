"""Reports of runs: one HTML file each, made from the files in their folders."""
