"""What stage ppo needs beside the common training: answers drawn from the model, their scores, and what is learned."""
