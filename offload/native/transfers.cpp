#include "offload/native/transfers.hpp"

#include <cerrno>

namespace kvatlas {

void Transfer::begin(int file, bool write, void* first, size_t first_bytes, void* second, size_t second_bytes) {
  fd = file;
  is_write = write;
  done = 0;
  n_bytes = first_bytes + second_bytes;
  parts[0] = {first, first_bytes};
  parts[1] = {second, second_bytes};
  result = 0;
}

bool Transfer::advance() {
  size_t moved = static_cast<size_t>(result);
  done += moved;
  for (iovec& part : parts) {
    const size_t of_part = moved < part.iov_len ? moved : part.iov_len;
    part.iov_base = static_cast<uint8_t*>(part.iov_base) + of_part;
    part.iov_len -= of_part;
    moved -= of_part;
  }
  return done < n_bytes;
}

void step(Transfer& transfer) {
  const off_t at = static_cast<off_t>(transfer.done);
  const ssize_t moved = transfer.is_write ? pwritev(transfer.fd, transfer.parts, 2, at) : preadv(transfer.fd, transfer.parts, 2, at);
  transfer.result = moved < 0 ? -errno : moved;
}

}  // namespace kvatlas
