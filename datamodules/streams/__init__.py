"""Further streams of a sample: sound, depth, flow, masks, sensors, joints, boxes, features, read by the plan of the sample."""
