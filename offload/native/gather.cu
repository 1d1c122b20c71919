// Copies many small runs of bytes in one launch: between rows of pinned host memory, which the kernel reads and writes
// over the bus, and blocks of device memory.
//
// Each of `n` descriptors is three 64-bit words: destination, source, bytes. Groups of threads take one after the
// other; 16 bytes a step where all three allow it, single bytes elsewhere. gather_ptx.cpp holds what nvcc makes of this
// file; tests/offload/native/kernel_source.py writes it.

extern "C" __global__ void kvatlas_gather(const unsigned long long* descriptors, unsigned long long n) {
  for (unsigned long long i = blockIdx.x; i < n; i += gridDim.x) {
    const unsigned long long to = descriptors[3 * i];
    const unsigned long long from = descriptors[3 * i + 1];
    const unsigned long long bytes = descriptors[3 * i + 2];
    unsigned long long done = 0;
    if (((to | from) & 15) == 0) {
      const unsigned long long n_words = bytes / 16;
      const uint4* source = reinterpret_cast<const uint4*>(from);
      uint4* target = reinterpret_cast<uint4*>(to);
      unsigned long long word = threadIdx.x;
      // Four reads on their way at once: each takes a microsecond over the bus.
      for (; word + 3 * blockDim.x < n_words; word += 4 * blockDim.x) {
        const uint4 a = source[word];
        const uint4 b = source[word + blockDim.x];
        const uint4 c = source[word + 2 * blockDim.x];
        const uint4 d = source[word + 3 * blockDim.x];
        target[word] = a;
        target[word + blockDim.x] = b;
        target[word + 2 * blockDim.x] = c;
        target[word + 3 * blockDim.x] = d;
      }
      for (; word < n_words; word += blockDim.x) target[word] = source[word];
      done = n_words * 16;
    }
    const unsigned char* source = reinterpret_cast<const unsigned char*>(from);
    unsigned char* target = reinterpret_cast<unsigned char*>(to);
    for (unsigned long long byte = done + threadIdx.x; byte < bytes; byte += blockDim.x) target[byte] = source[byte];
  }
}
