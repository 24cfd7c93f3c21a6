"""Pictures and pages of mixed images, and the one style of all charts."""
