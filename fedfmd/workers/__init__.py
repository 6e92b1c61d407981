"""Workers as processes of this machine, without Flower and Ray, and the memory that such workers share."""
