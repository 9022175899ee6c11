"""What several tests share: sites, bundles, models, fake servers at designed seams."""
