#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "index/native/error.hpp"
#include "offload/native/bind_copies.hpp"
#include "offload/native/bind_offload.hpp"
#include "offload/native/copies.hpp"
#include "offload/native/cuda_device.hpp"
#include "offload/native/host_device.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

// Memory that Python owns, writable, held until it is let go.
class HeldMemory {
 public:
  explicit HeldMemory(nb::handle memory) {
    if (PyObject_GetBuffer(memory.ptr(), &view_, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) != 0) {
      PyErr_Clear();
      throw Error(ErrorKind::input, std::string("memory: expected a contiguous writable buffer, got ") + Py_TYPE(memory.ptr())->tp_name);
    }
    is_held_ = true;
  }
  HeldMemory(const HeldMemory&) = delete;
  ~HeldMemory() { release(); }

  uint8_t* data() const { return static_cast<uint8_t*>(view_.buf); }
  uint64_t bytes() const { return static_cast<uint64_t>(view_.len); }
  void release() {
    if (is_held_) PyBuffer_Release(&view_);
    is_held_ = false;
  }
  // Something may write to it for as long as the process lives.
  void keep_for_ever() { is_held_ = false; }

 private:
  Py_buffer view_{};
  bool is_held_ = false;
};

struct DeviceChoice {
  std::string device;
  std::optional<std::string> driver;
  uint32_t host_threads;
  uint64_t gather_loads_below_bytes, gather_stores_below_bytes, gather_least;
};

std::unique_ptr<Device> device_of(const DeviceChoice& choice) {
  if (choice.device == "host") return std::make_unique<HostDevice>(choice.host_threads);
  CudaOptions options;
  options.gather_loads_below_bytes = choice.gather_loads_below_bytes;
  options.gather_stores_below_bytes = choice.gather_stores_below_bytes;
  options.gather_least = choice.gather_least;
  const std::string number = choice.device.rfind("cuda:", 0) == 0 ? choice.device.substr(5) : "";
  if (number.empty() || number.size() > 4 || number.find_first_not_of("0123456789") != std::string::npos) {
    throw Error(ErrorKind::input, "device: expected 'host' or 'cuda:' and a number, got '" + choice.device + "'");
  }
  options.ordinal = std::stoi(number);
  return std::make_unique<CudaDevice>(cuda::Driver::load(choice.driver.value_or("")), options);
}

// A Copier and the memory that it writes to.
class BoundCopier {
 public:
  BoundCopier(nb::handle memory, uint64_t row_bytes, const DeviceChoice& choice, uint32_t blocks_per_chunk,
              std::vector<TensorPlace> tensors, std::vector<std::vector<GroupPart>> groups, CopierLimits limits)
      : memory_(memory), is_host_(choice.device == "host") {
    CopyPlan plan(memory_.data(), memory_.bytes(), row_bytes, blocks_per_chunk, std::move(tensors), std::move(groups));
    nb::gil_scoped_release unlocked;
    copier_ = std::make_unique<Copier>(std::move(plan), device_of(choice), limits);
  }
  ~BoundCopier() {
    bool is_safe = true;
    {
      nb::gil_scoped_release unlocked;
      is_safe = copier_->close(0);
      copier_.reset();
    }
    if (!is_safe && !is_host_) memory_.keep_for_ever();  // the host's threads have ended with their device
  }

  void submit(Direction direction, uint64_t job, nb::handle block_ids, nb::handle group_sizes, nb::handle block_indices,
              nb::handle rows, uint64_t after_stream) {
    const Numbers ids(block_ids, "block_ids"), sizes(group_sizes, "group_sizes"), indices(block_indices, "block_indices"), row_numbers(rows, "rows");
    nb::gil_scoped_release unlocked;
    copier_->submit(direction, job, {ids.span(), sizes.span(), indices.span(), row_numbers.span()}, after_stream);
  }

  nb::list finished() {
    const std::vector<FinishedCopy> jobs = [&] {
      nb::gil_scoped_release unlocked;
      return copier_->finished();
    }();
    nb::list out;
    for (const FinishedCopy& job : jobs) out.append(nb::make_tuple(job.job, job.is_ok, job.bytes, job.seconds));
    return out;
  }

  void wait(const std::vector<uint64_t>& jobs) {
    nb::gil_scoped_release unlocked;
    copier_->wait(jobs);
  }

  bool close(double seconds) {
    bool is_safe = false;
    {
      nb::gil_scoped_release unlocked;
      is_safe = copier_->close(seconds);
    }
    if (is_safe) memory_.release();
    return is_safe;
  }

  Copier& copier() { return *copier_; }

 private:
  HeldMemory memory_;
  bool is_host_;
  std::unique_ptr<Copier> copier_;
};

void make(BoundCopier* self, nb::handle memory, uint64_t row_bytes, const std::string& device, std::optional<std::string> driver,
          uint32_t blocks_per_chunk, const std::vector<PlainTensor>& tensors,
          const std::vector<PlainGroup>& groups, const std::optional<std::vector<uint64_t>>& page_bytes,
          uint32_t host_threads, uint64_t jobs_max, double time_limit_s, uint64_t gather_loads_below_bytes, uint64_t gather_stores_below_bytes,
          uint64_t gather_least) {
  if (jobs_max == 0 || !(time_limit_s > 0)) throw Error(ErrorKind::input, "jobs_max and time_limit_s: expected more than 0");
  new (self) BoundCopier(memory, row_bytes, {device, std::move(driver), host_threads, gather_loads_below_bytes, gather_stores_below_bytes, gather_least},
                         blocks_per_chunk, places_of(tensors, page_bytes), parts_of(groups), {jobs_max, time_limit_s});
}

void bind_statistics(nb::module_& m) {
  const auto count = [](auto member) { return [member](const CopierStatistics& s) { return s.device.*member; }; };
  nb::class_<CopierStatistics>(m, "CopierStatistics")
      .def_ro("stores", &CopierStatistics::stores)
      .def_ro("loads", &CopierStatistics::loads)
      .def_ro("stored_bytes", &CopierStatistics::stored_bytes)
      .def_ro("loaded_bytes", &CopierStatistics::loaded_bytes)
      .def_ro("store_seconds", &CopierStatistics::store_seconds)
      .def_ro("load_seconds", &CopierStatistics::load_seconds)
      .def_ro("failed_jobs", &CopierStatistics::failed_jobs)
      .def_ro("refused_jobs", &CopierStatistics::refused_jobs)
      .def_ro("running_jobs", &CopierStatistics::running_jobs)
      .def_ro("unread_jobs", &CopierStatistics::unread_jobs)
      .def_ro("is_pinned", &CopierStatistics::is_pinned)
      .def_ro("is_lost", &CopierStatistics::is_lost)
      .def_ro("first_error", &CopierStatistics::first_error)
      .def_prop_ro("copies", count(&DeviceCounts::copies))
      .def_prop_ro("streamed_copies", count(&DeviceCounts::streamed_copies))
      .def_prop_ro("batched_copies", count(&DeviceCounts::batched_copies))
      .def_prop_ro("single_copies", count(&DeviceCounts::single_copies))
      .def_prop_ro("gathered_copies", count(&DeviceCounts::gathered_copies))
      .def_prop_ro("gathers_refused", count(&DeviceCounts::gathers_refused))
      .def_prop_ro("device_errors", count(&DeviceCounts::device_errors));
}

template <Direction direction>
void submit(BoundCopier& copier, uint64_t job, nb::handle block_ids, nb::handle group_sizes, nb::handle block_indices,
            nb::handle rows, uint64_t after_stream) {
  copier.submit(direction, job, block_ids, group_sizes, block_indices, rows, after_stream);
}

}  // namespace

Numbers::Numbers(nb::handle numbers, const char* name) {
  if (!PyObject_CheckBuffer(numbers.ptr()) || PyObject_GetBuffer(numbers.ptr(), &view_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    throw Error(ErrorKind::input, std::string(name) + ": expected a contiguous int32 array, got " + Py_TYPE(numbers.ptr())->tp_name);
  }
  const std::string format = view_.format == nullptr ? "B" : view_.format;
  if (view_.ndim == 1 && view_.itemsize == 4 && std::strchr("il", format.back()) != nullptr) return;
  const int ndim = view_.ndim;
  PyBuffer_Release(&view_);
  throw Error(ErrorKind::input, std::string(name) + ": expected one dimension of int32, got " + std::to_string(ndim) + " of format '" + format + "'");
}

std::vector<TensorPlace> places_of(const std::vector<PlainTensor>& tensors, const std::optional<std::vector<uint64_t>>& page_bytes) {
  if (page_bytes && page_bytes->size() != tensors.size()) {
    throw Error(ErrorKind::input, "page_bytes: expected " + std::to_string(tensors.size()) + ", one for each tensor, got " + std::to_string(page_bytes->size()));
  }
  std::vector<TensorPlace> out;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [address, n_blocks, stride_bytes, row_offset] = tensors[i];
    out.push_back({address, n_blocks, stride_bytes, page_bytes ? (*page_bytes)[i] : stride_bytes, row_offset});
  }
  return out;
}

std::vector<std::vector<GroupPart>> parts_of(const std::vector<PlainGroup>& groups) {
  std::vector<std::vector<GroupPart>> out;
  for (const PlainGroup& group : groups) {
    out.emplace_back();
    for (const auto& [tensor, bytes] : group) out.back().push_back({tensor, bytes});
  }
  return out;
}

void bind_copies(nb::module_& m) {
  bind_direct_files(m);
  bind_statistics(m);
  const CudaOptions usual;
  nb::class_<BoundCopier>(m, "Copier")
      .def("__init__", &make, nb::arg("memory"), nb::arg("row_bytes"), nb::kw_only(), nb::arg("device"),
           nb::arg("driver") = nb::none(), nb::arg("blocks_per_chunk"), nb::arg("tensors"), nb::arg("groups"),
           nb::arg("page_bytes") = nb::none(), nb::arg("host_threads") = 2, nb::arg("jobs_max") = 16384,
           nb::arg("time_limit_s") = 120.0, nb::arg("gather_loads_below_bytes") = usual.gather_loads_below_bytes,
           nb::arg("gather_stores_below_bytes") = usual.gather_stores_below_bytes, nb::arg("gather_least") = usual.gather_least)
      .def("submit_store", &submit<Direction::store>, nb::arg("job"), nb::arg("block_ids"), nb::arg("group_sizes"),
           nb::arg("block_indices"), nb::arg("rows"), nb::arg("after_stream") = 0)
      .def("submit_load", &submit<Direction::load>, nb::arg("job"), nb::arg("block_ids"), nb::arg("group_sizes"),
           nb::arg("block_indices"), nb::arg("rows"), nb::arg("after_stream") = 0)
      .def("finished", &BoundCopier::finished)
      .def("wait", &BoundCopier::wait, nb::arg("jobs"))
      .def("close", &BoundCopier::close, nb::arg("seconds") = 5.0)
      .def("statistics", [](BoundCopier& self) {
        nb::gil_scoped_release unlocked;
        return self.copier().statistics();
      })
      .def_prop_ro("device", [](BoundCopier& self) { return self.copier().describe(); })
      .def_prop_ro("pci_address", [](BoundCopier& self) -> std::optional<std::string> {
        if (self.copier().pci_address().empty()) return std::nullopt;
        return self.copier().pci_address();
      });
}

}  // namespace kvatlas
