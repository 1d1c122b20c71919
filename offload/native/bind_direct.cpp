// Python bindings of DirectFiles; _native.pyi describes them. No logic here.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <string>
#include <vector>

#include "index/native/error.hpp"
#include "offload/native/bind_copies.hpp"
#include "offload/native/cufile_files.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

DirectMode mode_of(const std::string& name) {
  static const char* const names[] = {"full", "bounce", "read_only", "write_only"};
  const auto* found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) throw Error(ErrorKind::input, "mode: expected full, bounce, read_only or write_only, got '" + name + "'");
  return static_cast<DirectMode>(found - std::begin(names));
}

void fill(uint8_t (&out)[16], const nb::bytes& from, const char* name) {
  if (from.size() != sizeof out) throw Error(ErrorKind::input, std::string(name) + ": expected 16 bytes, got " + std::to_string(from.size()));
  std::copy_n(static_cast<const uint8_t*>(from.data()), sizeof out, out);
}

int ordinal_of(const std::string& device) {
  const std::string number = device.rfind("cuda:", 0) == 0 ? device.substr(5) : "";
  if (number.empty() || number.size() > 4 || number.find_first_not_of("0123456789") != std::string::npos) {
    throw Error(ErrorKind::input, "device: expected 'cuda:' and a number, got '" + device + "'");
  }
  return std::stoi(number);
}

void make(DirectFiles* self, const std::string& folder, uint64_t row_bytes, nb::bytes fingerprint, const std::string& device,
          const std::string& mode, nb::bytes writer, size_t key_bytes, uint32_t blocks_per_chunk, const std::vector<PlainTensor>& tensors,
          const std::vector<PlainGroup>& groups, const std::optional<std::vector<uint64_t>>& page_bytes, const std::optional<std::string>& driver,
          const std::optional<std::string>& library, bool allow_unverified, uint32_t threads, size_t chunks_max, double time_limit_s) {
  DirectOptions options;
  options.mode = mode_of(mode);
  options.allow_unverified = allow_unverified;
  options.n_threads = threads;
  options.chunks_max = chunks_max;
  options.time_limit_s = time_limit_s;
  options.key_bytes = key_bytes;
  fill(options.fingerprint, fingerprint, "fingerprint");
  fill(options.writer, writer, "writer");
  const int ordinal = ordinal_of(device);
  DirectFiles::Layout layout{row_bytes, blocks_per_chunk, places_of(tensors, page_bytes), parts_of(groups)};
  nb::gil_scoped_release unlocked;
  new (self) DirectFiles(std::move(layout), folder, cuda::Driver::load(driver.value_or("")), cufile::Library::load(library.value_or("")), ordinal, options);
}

template <Direction direction>
bool submit(DirectFiles& files, uint64_t job, nb::bytes keys, nb::handle block_ids, nb::handle group_sizes, nb::handle block_indices, uint64_t after_stream) {
  const Numbers ids(block_ids, "block_ids"), sizes(group_sizes, "group_sizes"), indices(block_indices, "block_indices");
  const std::string packed(keys.c_str(), keys.size());
  nb::gil_scoped_release unlocked;
  return files.submit(direction, job, packed, {ids.span(), sizes.span(), indices.span(), {}}, after_stream);
}

nb::list finished(DirectFiles& files, double wait_s) {
  if (!(wait_s >= 0 && wait_s <= 3600)) throw Error(ErrorKind::input, "wait_s: expected 0 to 3600, got " + std::to_string(wait_s));
  const std::vector<FinishedDirect> jobs = [&] {
    nb::gil_scoped_release unlocked;
    return files.finished(wait_s);
  }();
  nb::list out;
  for (const FinishedDirect& job : jobs) {
    out.append(nb::make_tuple(job.job, nb::bytes(job.outcomes.data(), job.outcomes.size()), job.bytes, job.seconds, job.is_verified, job.error));
  }
  return out;
}

}  // namespace

void bind_direct_files(nb::module_& m) {
  nb::class_<DirectCounts>(m, "DirectStatistics")
      .def_ro("loaded_chunks", &DirectCounts::loaded_chunks)
      .def_ro("stored_chunks", &DirectCounts::stored_chunks)
      .def_ro("present_chunks", &DirectCounts::present_chunks)
      .def_ro("failed_chunks", &DirectCounts::failed_chunks)
      .def_ro("corrupt_chunks", &DirectCounts::corrupt_chunks)
      .def_ro("unverified_chunks", &DirectCounts::unverified_chunks)
      .def_ro("timed_out_chunks", &DirectCounts::timed_out_chunks)
      .def_ro("refused_jobs", &DirectCounts::refused_jobs)
      .def_ro("open_chunks", &DirectCounts::open_chunks);
  nb::class_<DirectFiles>(m, "DirectFiles")
      .def("__init__", &make, nb::arg("folder"), nb::arg("row_bytes"), nb::arg("fingerprint"), nb::kw_only(), nb::arg("device"),
           nb::arg("mode"), nb::arg("writer"), nb::arg("key_bytes"), nb::arg("blocks_per_chunk"), nb::arg("tensors"), nb::arg("groups"),
           nb::arg("page_bytes") = nb::none(), nb::arg("driver") = nb::none(), nb::arg("library") = nb::none(),
           nb::arg("allow_unverified") = false, nb::arg("threads") = 4, nb::arg("chunks_max") = 8192, nb::arg("time_limit_s") = 30.0)
      .def("submit_store", &submit<Direction::store>, nb::arg("job"), nb::arg("keys"), nb::arg("block_ids"), nb::arg("group_sizes"),
           nb::arg("block_indices"), nb::arg("after_stream") = 0)
      .def("submit_load", &submit<Direction::load>, nb::arg("job"), nb::arg("keys"), nb::arg("block_ids"), nb::arg("group_sizes"),
           nb::arg("block_indices"), nb::arg("after_stream") = 0)
      .def("finished", &finished, nb::arg("wait_s") = 0.0)
      .def("statistics", &DirectFiles::counts)
      .def("close", &DirectFiles::close, nb::arg("seconds") = 5.0, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace kvatlas
