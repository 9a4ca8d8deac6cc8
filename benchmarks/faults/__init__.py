"""What breaks, on purpose: kills, races, full disks, hostile and damaged files."""
