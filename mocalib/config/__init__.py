"""What a run is and how it is computed: frozen settings that refuse wrong values. No torch."""
