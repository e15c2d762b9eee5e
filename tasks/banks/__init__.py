"""`mdmf bank`: collecting real images, building banks, calibrating them, checking their health."""
