"""What goes on outside: runs on disk, their event logs, and the engines that this program started."""
