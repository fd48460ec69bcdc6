"""The paper: guidance equations, strength schedule and the sampling loop. Only torch is needed."""
