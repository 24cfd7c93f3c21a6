"""Pictures and pages: what a mixup does to images, painted, and as a page with a slider."""
