"""What keeps a warehouse whole: `mdmf verify`, `backup`, `restore` and `mdmf warehouse copy | compact`."""
