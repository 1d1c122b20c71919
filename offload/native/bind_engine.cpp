// Python bindings of the I/O engine. No logic here.
//
// Submitting and collecting keep the GIL: they take microseconds, and wait for no disk.
#include "offload/native/bind_offload.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <vector>

#include "index/native/bind_arrays.hpp"
#include "index/native/error.hpp"
#include "offload/native/engine.hpp"
#include "offload/native/numa.hpp"

namespace nb = nanobind;

namespace kvatlas {
namespace {

constexpr const char* kKindNames[kJobKinds] = {"store", "load", "probe", "remove"};
constexpr const char* kOutcomeNames[kOutcomes] = {"ok", "present", "absent", "corrupt", "failed", "no_space", "read_only", "timed_out", "cancelled"};

// An exported buffer, until it is given back. Needs the GIL.
class Export {
 public:
  Export(nb::handle buffer, const char* name, const char* expected, int flags) {
    if (PyObject_CheckBuffer(buffer.ptr()) && PyObject_GetBuffer(buffer.ptr(), &view_, flags) == 0) return;
    PyErr_Clear();
    throw Error(ErrorKind::input, std::string(name) + ": expected " + expected + ", got " + Py_TYPE(buffer.ptr())->tp_name);
  }
  Export(const Export&) = delete;
  ~Export() { release(); }
  void release() { PyBuffer_Release(&view_); }  // twice does nothing
  const Py_buffer& view() const { return view_; }

 private:
  Py_buffer view_{};
};

std::vector<int32_t> rows_of(nb::handle rows) {
  const Export borrowed(rows, "rows", "a contiguous int32 array", PyBUF_C_CONTIGUOUS | PyBUF_FORMAT);
  const Py_buffer& view = borrowed.view();
  const std::string format = view.format == nullptr ? "B" : view.format;
  if (view.ndim != 1 || view.itemsize != 4 || (format != "i" && format != "l")) {
    throw Error(ErrorKind::input, "rows: expected one dimension of int32, got " + std::to_string(view.ndim) + " of format '" + format + "'");
  }
  const auto* data = static_cast<const int32_t*>(view.buf);
  return {data, data + view.len / 4};
}

std::vector<uint8_t> bytes_of(nb::handle bytes, const char* name) {
  const ByteSpan span(bytes, name);
  return {span.data(), span.data() + span.size()};
}

// An engine and the buffer that it moves.
class BoundEngine {
 public:
  BoundEngine(nb::handle memory, EngineOptions options) : memory_(memory, "memory", "a writable buffer", PyBUF_WRITABLE) {
    options.memory = static_cast<uint8_t*>(memory_.view().buf);
    options.memory_bytes = static_cast<size_t>(memory_.view().len);
    engine_ = std::make_unique<Engine>(options);
  }
  ~BoundEngine() {
    nb::gil_scoped_release unlocked;
    engine_.reset();
  }
  BoundEngine(const BoundEngine&) = delete;

  Engine& operator*() const { return *engine_; }
  Engine* operator->() const { return engine_.get(); }
  bool close(double seconds) {
    bool all_ended = false;
    {
      nb::gil_scoped_release unlocked;
      all_ended = engine_->close(seconds);
    }
    memory_.release();
    return all_ended;
  }

 private:
  Export memory_;
  std::unique_ptr<Engine> engine_;
};

void make(BoundEngine* self, nb::handle memory, size_t row_bytes, const std::string& folder, nb::handle fingerprint, nb::handle writer, size_t key_bytes,
          uint32_t blocks, size_t readers, size_t writers, size_t reads_per_write, size_t staging_bytes, size_t queued_max, double time_limit_s, bool direct,
          bool uring, bool sync, size_t ring_depth, int numa_node) {
  EngineOptions options;
  options.row_bytes = row_bytes;
  options.folder = folder;
  options.fingerprint = bytes_of(fingerprint, "fingerprint");
  options.writer = bytes_of(writer, "writer");
  options.key_bytes = key_bytes;
  options.blocks = blocks;
  options.sync = sync;
  options.readers = readers;
  options.writers = writers;
  options.reads_per_write = reads_per_write;
  options.staging_bytes = staging_bytes;
  options.queued_max = queued_max;
  options.time_limit_s = time_limit_s;
  options.direct = direct;
  options.uring = uring;
  options.ring_depth = ring_depth;
  options.numa_node = numa_node;
  new (self) BoundEngine(memory, std::move(options));
}

template <JobKind kind>
bool submit_rows(BoundEngine& engine, int64_t job, nb::handle keys, nb::handle rows) {
  return engine->submit(kind, job, bytes_of(keys, "keys"), rows_of(rows));
}
template <JobKind kind>
bool submit_keys(BoundEngine& engine, int64_t job, nb::handle keys) {
  return engine->submit(kind, job, bytes_of(keys, "keys"), {});
}

nb::dict outcomes_of(const EngineStatistics& s) {
  nb::dict out;
  for (size_t kind = 0; kind < kJobKinds; ++kind) {
    nb::dict counts;
    for (size_t i = 0; i < kOutcomes; ++i) counts[kOutcomeNames[i]] = s.outcomes[kind][i];
    out[kKindNames[kind]] = counts;
  }
  return out;
}

nb::dict faults_of(const EngineStatistics& s) {
  nb::dict out;
  for (size_t i = 1; i < kHeadFaults; ++i) out[text_of(static_cast<HeadFault>(i))] = s.faults[i];
  return out;
}

nb::dict by_kind(const std::array<uint64_t, kJobKinds>& counts) {
  nb::dict out;
  for (size_t kind = 0; kind < kJobKinds; ++kind) out[kKindNames[kind]] = counts[kind];
  return out;
}

void bind_statistics(nb::module_& m) {
  using S = EngineStatistics;
  nb::class_<S>(m, "EngineStatistics")
      .def_ro("open_jobs", &S::open_jobs)
      .def_ro("finished_jobs", &S::finished_jobs)
      .def_ro("queued_reads", &S::queued_reads)
      .def_ro("queued_writes", &S::queued_writes)
      .def_ro("reading", &S::reading)
      .def_ro("writing", &S::writing)
      .def_ro("hung", &S::hung)
      .def_ro("threads", &S::threads)
      .def_ro("staging_bytes", &S::staging_bytes)
      .def_ro("staging_free_bytes", &S::staging_free_bytes)
      .def_ro("is_staging_locked", &S::is_staging_locked)
      .def_ro("is_direct", &S::is_direct)
      .def_ro("is_uring", &S::is_uring)
      .def_ro("is_pinned", &S::is_pinned)
      .def_ro("stages_stores", &S::stages_stores)
      .def_prop_ro("jobs", [](const S& s) { return by_kind(s.jobs); })
      .def_prop_ro("chunks", [](const S& s) { return by_kind(s.chunks); })
      .def_prop_ro("outcomes", &outcomes_of)
      .def_prop_ro("faults", &faults_of)
      .def_ro("stored_bytes", &S::stored_bytes)
      .def_ro("loaded_bytes", &S::loaded_bytes)
      .def_ro("refused_chunks", &S::refused_chunks)
      .def_ro("staging_waits", &S::staging_waits)
      .def_ro("hung_total", &S::hung_total)
      .def_ro("read_queue_seconds", &S::read_queue_seconds)
      .def_ro("write_queue_seconds", &S::write_queue_seconds)
      .def_ro("direct_refusals", &S::direct_refusals)
      .def_ro("stale_retries", &S::stale_retries)
      .def_ro("open_file_limits", &S::open_file_limits)
      .def_ro("removed_corrupt", &S::removed_corrupt)
      .def_ro("temporary_left", &S::temporary_left);
}

void bind_finished(nb::module_& m) {
  nb::class_<FinishedJob>(m, "FinishedJob")
      .def_ro("job", &FinishedJob::id)
      .def_prop_ro("outcomes", [](const FinishedJob& f) { return nb::bytes(f.outcomes.data(), f.outcomes.size()); })
      .def_ro("n_bytes", &FinishedJob::n_bytes)
      .def_ro("seconds", &FinishedJob::seconds)
      .def_ro("error_number", &FinishedJob::error_number)
      .def_ro("error", &FinishedJob::error);
}

}  // namespace

void bind_engine(nb::module_& m) {
  for (size_t i = 0; i < kOutcomes; ++i) {
    std::string name = kOutcomeNames[i];
    for (char& c : name) c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    m.attr(name.c_str()) = i;
  }
  m.def("numa_node_of_pci", &numa_node_of_pci, nb::arg("address"), nb::kw_only(), nb::arg("sysfs") = "/sys");
  m.def("cpus_of_node", &cpus_of_node, nb::arg("node"), nb::kw_only(), nb::arg("sysfs") = "/sys");
  bind_statistics(m);
  bind_finished(m);
  const EngineOptions usual;
  nb::class_<BoundEngine>(m, "Engine")
      .def("__init__", &make, nb::arg("memory"), nb::arg("row_bytes"), nb::arg("folder"), nb::arg("fingerprint"), nb::kw_only(), nb::arg("writer"),
           nb::arg("key_bytes"), nb::arg("blocks") = usual.blocks, nb::arg("readers") = usual.readers, nb::arg("writers") = usual.writers,
           nb::arg("reads_per_write") = usual.reads_per_write, nb::arg("staging_bytes") = usual.staging_bytes, nb::arg("queued_max") = usual.queued_max,
           nb::arg("time_limit_s") = usual.time_limit_s, nb::arg("direct") = usual.direct, nb::arg("uring") = usual.uring, nb::arg("sync") = usual.sync,
           nb::arg("ring_depth") = usual.ring_depth, nb::arg("numa_node") = usual.numa_node)
      .def_prop_ro("event_fd", [](const BoundEngine& engine) { return engine->event_fd(); })
      .def("submit_store", &submit_rows<JobKind::store>, nb::arg("job"), nb::arg("keys"), nb::arg("rows"))
      .def("submit_load", &submit_rows<JobKind::load>, nb::arg("job"), nb::arg("keys"), nb::arg("rows"))
      .def("submit_probe", &submit_keys<JobKind::probe>, nb::arg("job"), nb::arg("keys"))
      .def("submit_remove", &submit_keys<JobKind::remove>, nb::arg("job"), nb::arg("keys"))
      .def("cancel", [](BoundEngine& engine, int64_t job) { return engine->cancel(job); }, nb::arg("job"))
      .def("finished", [](BoundEngine& engine) { return engine->finished(); })
      .def("drain", [](BoundEngine& engine, double seconds) { return engine->drain(seconds); }, nb::arg("seconds"), nb::call_guard<nb::gil_scoped_release>())
      .def("give_up", [](BoundEngine& engine) { engine->give_up(); }, nb::call_guard<nb::gil_scoped_release>())
      .def("close", &BoundEngine::close, nb::arg("seconds") = Engine::kCloseSeconds)
      .def("statistics", [](const BoundEngine& engine) { return engine->statistics(); });
}

}  // namespace kvatlas
