"""Further streams of a sample: audio, depth, flow, masks, sensors, joints, boxes, features, read by the plan of the sample."""
