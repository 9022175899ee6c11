"""What Prometheus is told: counts from the way of every answer, figures of the site, and the listener on loopback."""
