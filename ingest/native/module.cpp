// Python bindings of ingest/native; _native.pyi describes them. No logic here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <memory>

#include "index/native/error.hpp"
#include "index/native/table.hpp"
#include "ingest/native/checksum.hpp"
#include "ingest/native/decode.hpp"
#include "ingest/native/delta_log.hpp"
#include "ingest/native/mirror.hpp"

namespace nb = nanobind;
using namespace kvatlas;

void bind_store(nb::module_& m);  // module_store.cpp

namespace {

nb::object text_or_none(const Text& text) {
  if (!text.present) return nb::none();
  return nb::steal(PyUnicode_DecodeUTF8(text.value.data(), static_cast<Py_ssize_t>(text.value.size()), "surrogateescape"));
}

// A decoded batch; keeps the payload, into which its texts point.
class Decoder {
 public:
  void decode(nb::bytes payload) {
    payload_ = payload;  // the old one is released after the batch no longer points into it
    nb::gil_scoped_release unlocked;
    const auto* bytes = reinterpret_cast<const uint8_t*>(payload_.c_str());
    checksum_ = kvatlas::checksum(bytes, payload_.size());
    kvatlas::decode(bytes, payload_.size(), batch_);
  }
  const Batch& batch() const { return batch_; }
  uint64_t checksum() const { return checksum_; }
  // (group, kind, window, block size) of the stores that name a group, in order; 0 and None: not said.
  nb::list groups() const {
    nb::list out;
    for (const Event& event : batch_.events)
      if (event.type == EventType::stored && (event.tier == Tier::gpu || event.hashes.count > 0))
        out.append(nb::make_tuple(event.group, text_or_none(event.kind), event.has_window ? event.window : 0,
                                  event.tier == Tier::gpu ? event.block_size : 0));
    return out;
  }

  int32_t rank() const { return batch_.rank; }
  uint64_t group_mask() const { return batch_.group_mask; }
  uint64_t full_groups() const { return batch_.full_groups; }
  uint64_t other_groups() const { return batch_.other_groups; }
  uint32_t store_tiers() const { return batch_.store_tiers; }
  uint32_t dense_block_size() const { return batch_.dense_block_size; }
  nb::object ts() const { return batch_.has_ts ? nb::object(nb::float_(batch_.ts)) : nb::object(nb::none()); }
  size_t n_events() const { return batch_.events.size(); }
  uint32_t bad_events() const { return batch_.bad_events; }
  uint32_t unknown_events() const { return batch_.unknown_events; }
  bool broken() const { return batch_.broken; }
  bool clean() const { return batch_.bad_events == 0 && batch_.unknown_events == 0 && !batch_.broken; }

 private:
  nb::bytes payload_;
  Batch batch_;
  uint64_t checksum_ = 0;
};

nb::list span_list(const std::vector<uint64_t>& all, Span span) {
  nb::list out;
  for (uint32_t i = 0; i < span.count; ++i) out.append(all[span.begin + i]);
  return out;
}

nb::object extra_key(const ExtraKey& key) {
  nb::object text = nb::steal(PyUnicode_DecodeUTF8(key.value.data(), static_cast<Py_ssize_t>(key.value.size()), "surrogateescape"));
  switch (key.form) {
    case ExtraKey::Form::text: return text;
    case ExtraKey::Form::bytes: return nb::bytes(key.value.data(), key.value.size());
    case ExtraKey::Form::pair: return nb::make_tuple(text, key.offset);
    case ExtraKey::Form::opaque: return nb::none();
  }
  return nb::none();
}

nb::object extra_keys(const Batch& batch, const Event& event) {
  if (!event.has_extras) return nb::none();
  nb::list blocks;
  for (uint32_t i = 0; i < event.hashes.count; ++i) {
    const size_t at = event.extras.begin + i;
    if (event.extras.count == 0 || !batch.block_has_extras[at]) {
      blocks.append(nb::none());
      continue;
    }
    nb::list elements;
    const Span span = batch.block_extras[at];
    for (uint32_t e = 0; e < span.count; ++e) elements.append(extra_key(batch.extra_keys[span.begin + e]));
    blocks.append(elements);
  }
  return blocks;
}

nb::object event_tuple(const Batch& batch, const Event& event) {
  if (event.type == EventType::cleared) {
    const char* phase = event.begins_inventory ? "begin" : event.ends_inventory ? "end" : nullptr;
    return nb::make_tuple("AllBlocksCleared", phase);
  }
  if (event.type == EventType::removed)
    return nb::make_tuple("BlockRemoved", span_list(batch.hashes, event.hashes), text_or_none(event.medium), event.group,
                          text_or_none(event.locality), text_or_none(event.ownership));
  nb::list tokens;
  for (uint32_t i = 0; i < event.tokens.count; ++i) tokens.append(batch.tokens[event.tokens.begin + i]);
  const nb::object parent = event.parent == 0 ? nb::object(nb::none()) : nb::object(nb::int_(event.parent));
  const nb::object lora_id = !event.has_lora_id ? nb::object(nb::none()) : event.lora_id_negative ? nb::object(nb::int_(static_cast<int64_t>(event.lora_id))) : nb::object(nb::int_(event.lora_id));
  const nb::object window = event.has_window ? nb::object(nb::int_(event.window)) : nb::object(nb::none());
  return nb::make_tuple("BlockStored", span_list(batch.hashes, event.hashes), parent, tokens, event.block_size, lora_id,
                        text_or_none(event.medium), text_or_none(event.lora_name), text_or_none(event.cache_salt),
                        extra_keys(batch, event), event.group, text_or_none(event.kind), window,
                        text_or_none(event.locality), text_or_none(event.ownership), event.chunk_blocks);
}

// For tests: a payload as plain objects, in the shape that test_decode_differential.py expects.
nb::tuple decode_events(nb::bytes payload) {
  Batch batch;
  decode(reinterpret_cast<const uint8_t*>(payload.c_str()), payload.size(), batch);
  nb::list events, errors;
  for (const Event& event : batch.events) events.append(event_tuple(batch, event));
  for (uint32_t i = 0; i < batch.bad_events; ++i) errors.append("bad_event");
  if (batch.broken) errors.append("broken_payload");
  const nb::object ts = batch.has_ts ? nb::object(nb::float_(batch.ts)) : nb::object(nb::none());
  const nb::object rank = batch.rank < 0 ? nb::object(nb::none()) : nb::object(nb::int_(batch.rank));
  return nb::make_tuple(ts, rank, events, errors, batch.unknown_events);
}

// A mirror whose delta records go straight to where they belong: into this process's tables, one a
// shard, or into a log that all mirrors share.
class DeliveringMirror : public Mirror {
 public:
  using Mirror::Mirror;

  void set_tables(std::vector<std::shared_ptr<Table>> tables) {
    if (tables.size() != n_shards()) throw Error(ErrorKind::input, "tables: expected " + std::to_string(n_shards()) + ", got " + std::to_string(tables.size()));
    tables_ = std::move(tables);
  }
  void set_log(std::shared_ptr<DeltaLog> log) {
    if (n_shards() != 1) throw Error(ErrorKind::input, "set_log: expected a mirror of 1 shard, got " + std::to_string(n_shards()));
    log_ = std::move(log);
  }
  // False, and nothing is done, when lanes or stores should be set first (unless `told`).
  bool apply_and_deliver(const Decoder& decoder, bool told) {
    nb::gil_scoped_release unlocked;
    if (tables_.empty() && !log_) throw Error(ErrorKind::input, "apply: expected set_tables or set_log before");
    if (!told && !knows(decoder.batch())) return false;
    apply(decoder.batch());
    flush([this](uint32_t shard, const std::vector<uint8_t>& delta) {
      if (delta.empty()) return;
      if (log_) log_->append(delta.data(), delta.size());
      else tables_[shard]->apply(delta.data(), delta.size());
    });
    return true;
  }

 private:
  std::vector<std::shared_ptr<Table>> tables_;
  std::shared_ptr<DeltaLog> log_;
};

nb::list take(Mirror& mirror) {
  nb::list out;
  mirror.flush([&](uint32_t, const std::vector<uint8_t>& delta) { out.append(nb::bytes(delta.data(), delta.size())); });
  return out;
}

nb::list content(Mirror& mirror, uint32_t n_shards) {
  std::vector<std::vector<uint8_t>> deltas;
  {
    nb::gil_scoped_release unlocked;
    deltas = mirror.content(n_shards);
  }
  nb::list out;
  for (const auto& delta : deltas) out.append(nb::bytes(delta.data(), delta.size()));
  return out;
}

nb::dict residency(Mirror& mirror) {
  nb::dict groups;
  mirror.each_resident([&](uint16_t group, uint8_t mask, uint64_t key) {
    nb::int_ name(group);
    if (!groups.contains(name)) groups[name] = nb::dict();
    nb::dict blocks = nb::cast<nb::dict>(groups[name]);
    nb::int_ block(key);
    const long before = blocks.contains(block) ? nb::cast<long>(blocks[block]) : 0;
    blocks[block] = before | mask;
  });
  return groups;
}

nb::dict counts(const Mirror& mirror) {
  nb::dict out;
  for (uint8_t c = 0; c < static_cast<uint8_t>(Count::kCounts); ++c) out[count_name(static_cast<Count>(c))] = mirror.count(static_cast<Count>(c));
  return out;
}

nb::dict sizes(Mirror& mirror) {
  const Mirror::Sizes s = mirror.sizes();
  nb::dict out;
  out["nodes"] = s.nodes;
  out["ghosts"] = s.ghosts;
  out["orphans"] = s.orphans;
  out["orphan_bytes"] = s.orphan_bytes;
  out["bytes"] = s.bytes;
  out["held_gpu"] = s.held_gpu;
  out["held_cpu"] = s.held_cpu;
  out["holes"] = s.holes;
  out["closed"] = s.closed;
  return out;
}

// A snapshot under way; abandoned when it is dropped.
class Snapshot {
 public:
  explicit Snapshot(Mirror& mirror) : mirror_(mirror), number_(mirror.begin_snapshot()) {}
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;
  ~Snapshot() { mirror_.end_snapshot(number_); }

  nb::object part(size_t bytes_max) {
    Bytes bytes;
    {
      nb::gil_scoped_release unlocked;
      if (!done_) done_ = !mirror_.snapshot_part(number_, bytes_max, bytes);
    }
    if (done_) return nb::none();
    return nb::bytes(bytes.data(), bytes.size());
  }

 private:
  Mirror& mirror_;
  const uint64_t number_;
  bool done_ = false;
};

void restore(Mirror& mirror, const std::vector<nb::bytes>& parts) {
  std::vector<std::string_view> views;
  for (const nb::bytes& part : parts) views.emplace_back(part.c_str(), part.size());
  nb::gil_scoped_release unlocked;
  mirror.restore(views);
}

nb::dict claims(Mirror& mirror) {
  const Mirror::Claims c = mirror.claims();
  nb::dict out;
  out["maybe_gpu"] = c.maybe_gpu;
  out["maybe_cpu"] = c.maybe_cpu;
  out["orphans_waiting"] = c.orphans_waiting;
  out["lost_blocks"] = c.lost_blocks;
  out["lost_offloaded"] = c.lost_offloaded;
  out["lost_stored"] = c.lost_stored;
  out["unindexed_held"] = c.unindexed_held;
  out["unlinked_parts"] = c.unlinked_parts;
  out["stale"] = c.stale;
  out["gpu_copies"] = c.gpu_copies;
  out["extras_absent"] = c.extras_absent;
  out["offloaded"] = c.offloaded;
  out["clears"] = c.clears;
  return out;
}

}  // namespace

NB_MODULE(_native, m) {
  // Threads that still wait when the interpreter ends hold what they wait for: no leak of a program.
  nb::set_leak_warnings(false);
  nb::module_::import_("kvatlas.index._native");  // Keyspace, Table and what turns Error into exceptions
  nb::class_<Decoder>(m, "Decoder")
      .def(nb::init<>())
      .def("decode", &Decoder::decode, nb::arg("payload"))
      .def_prop_ro("rank", &Decoder::rank)
      .def_prop_ro("checksum", &Decoder::checksum)
      .def("groups", &Decoder::groups)
      .def_prop_ro("group_mask", &Decoder::group_mask)
      .def_prop_ro("full_groups", &Decoder::full_groups)
      .def_prop_ro("other_groups", &Decoder::other_groups)
      .def_prop_ro("store_tiers", &Decoder::store_tiers)
      .def_prop_ro("dense_block_size", &Decoder::dense_block_size)
      .def_prop_ro("ts", &Decoder::ts)
      .def_prop_ro("n_events", &Decoder::n_events)
      .def_prop_ro("clean", &Decoder::clean)
      .def_prop_ro("bad_events", &Decoder::bad_events)
      .def_prop_ro("unknown_events", &Decoder::unknown_events)
      .def_prop_ro("broken", &Decoder::broken);

  bind_store(m);

  nb::class_<Snapshot>(m, "Snapshot")
      .def("part", &Snapshot::part, nb::arg("bytes_max") = size_t{256} << 10);

  nb::class_<Mirror>(m, "MirrorBase")
      .def("set_lane", &Mirror::set_lane, nb::arg("group"), nb::arg("lane"), nb::arg("full_attention") = true)
      .def("set_stores", &Mirror::set_stores, nb::arg("disk").none(), nb::arg("storage").none(), nb::arg("attached"),
           nb::arg("storage_is_shared") = true)
      .def("set_chunk_blocks", &Mirror::set_chunk_blocks, nb::arg("blocks"))
      .def("set_announcer", &Mirror::set_announcer)
      .def("set_lora_names", &Mirror::set_lora_names, nb::arg("names"))
      .def("gather",
           [](Mirror& mirror, const Decoder& decoder) {
             nb::gil_scoped_release unlocked;
             mirror.apply(decoder.batch());
           },
           nb::arg("batch"))
      .def("restart", &Mirror::restart, nb::arg("keyspace"))
      .def("take", &take)
      .def("content", &content, nb::arg("n_shards"))
      .def("residency", &residency)
      .def("counts", &counts)
      .def("sizes", &sizes)
      .def("doubt", &Mirror::doubt, nb::call_guard<nb::gil_scoped_release>())
      .def("claims", &claims)
      .def("begin_snapshot", [](Mirror& mirror) { return std::make_unique<Snapshot>(mirror); }, nb::keep_alive<0, 1>())
      .def("restore", &restore, nb::arg("parts"))
      .def_prop_ro("claims_changed", &Mirror::claims_changed);

  nb::class_<DeltaLog>(m, "DeltaLog")
      .def(nb::init<uint64_t>(), nb::arg("bytes_max"))
      .def("append",
           [](DeltaLog& log, nb::bytes delta) {
             const auto* bytes = reinterpret_cast<const uint8_t*>(delta.c_str());
             check_delta(bytes, delta.size());
             log.append(bytes, delta.size());
           },
           nb::arg("delta"))
      .def("take",
           [](DeltaLog& log) {
             const std::vector<uint8_t> piece = log.take();
             return nb::bytes(piece.data(), piece.size());
           })
      .def("__len__", &DeltaLog::bytes)
      .def_prop_ro("lost", &DeltaLog::lost);

  nb::class_<DeliveringMirror, Mirror>(m, "Mirror")
      .def("__init__",
           [](DeliveringMirror* self, const Keyspace& keyspace, uint32_t n_shards, uint64_t ghosts_max, uint64_t orphans_max, uint64_t orphan_bytes_max) {
             new (self) DeliveringMirror(keyspace, n_shards, MirrorLimits{ghosts_max, orphans_max, orphan_bytes_max});
           },
           nb::arg("keyspace"), nb::arg("n_shards") = 1, nb::arg("ghosts_max") = 8192, nb::arg("orphans_max") = 4096,
           nb::arg("orphan_bytes_max") = uint64_t{4} << 20)
      .def("set_tables", &DeliveringMirror::set_tables, nb::arg("tables"))
      .def("set_log", &DeliveringMirror::set_log, nb::arg("log"))
      .def("set_engine_keys", &DeliveringMirror::set_engine_keys, nb::arg("log").none(), nb::call_guard<nb::gil_scoped_release>())
      .def("tell_engine_keys", &DeliveringMirror::tell_engine_keys, nb::call_guard<nb::gil_scoped_release>())
      .def("apply", &DeliveringMirror::apply_and_deliver, nb::arg("batch"), nb::arg("told") = false);

  m.def("checksum", [](nb::bytes payload) { return checksum(reinterpret_cast<const uint8_t*>(payload.c_str()), payload.size()); }, nb::arg("payload"));
  m.def("decode_events", &decode_events, nb::arg("payload"));
}
